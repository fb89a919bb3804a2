/** Running ONNX models: the only part of the project that knows ONNX Runtime. */
export { openSession } from "./node-session.ts";
export { formatProfile, type Profile, type ProfileNode, type ProfileRow, summarizeProfile } from "./profile.ts";
export type { Device, DeviceName, Feeds, RunOptions, Session, SessionOptions, TensorInfo } from "./session.ts";
export { availableDevice, inferenceTarget, largeNetworkTarget, trainingTarget } from "./target.ts";
