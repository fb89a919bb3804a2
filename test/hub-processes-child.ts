// A process for hub-processes.test.ts: downloads a model into a cache that others use, too, and tells how far it is.
import { modelFolder } from "../src/io/hub.ts";

const [endpoint, cache] = process.argv.slice(2) as [string, string];
const folder = await modelFolder("org/model", {
  endpoint,
  cache,
  onProgress: ({ file, received, size }) => {
    if (received > 0 && received < size) process.stdout.write(`amid ${file}\n`);
  },
});
process.stdout.write(`folder ${folder}\n`);
