export { type Append, writeAtomically, writeFileAtomically } from "./atomic-file.ts";
export {
  bfloat16Bits,
  bfloat16Value,
  convertFloat,
  type FloatDType,
  float16Bits,
  float16Value,
  isFloat,
} from "./half-precision.ts";
export {
  type LazyTensor,
  readSafetensors,
  readSafetensorsHeader,
  readTensor,
  type SafetensorsFile,
  writeSafetensors,
} from "./safetensors.ts";
export {
  encodeSafetensors,
  parseSafetensors,
  parseSafetensorsHeader,
  type SafetensorsHeader,
  type TensorDescription,
  type TensorEntry,
} from "./safetensors-format.ts";
