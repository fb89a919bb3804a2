// Starts worker.ts when the project runs from its TypeScript source: on some versions of Node, tsx serves only the
// main thread unless it is registered in the worker too. The compiled package starts worker.js and has no such file.
import { register } from "tsx/esm/api";

register();
await import("./worker.ts");
