import { getHeapStatistics } from "node:v8";
import { parentPort } from "node:worker_threads";
import { invariant, messageOf, UserError } from "../core/errors.ts";
import { type Engine, openEngine } from "./engine.ts";
import type { ReplyMessage, RequestMessage, Requests } from "./protocol.ts";

/** The thread of one session at a time: answers requests one after the other. ONNX Runtime blocks this thread, no other. */

invariant(parentPort, "worker.ts is the script of a worker thread");
const port = parentPort;
let engine: Engine | undefined;
let last: Promise<void> = Promise.resolve();

port.on("message", (request: RequestMessage) => {
  last = last.then(async () => {
    const transfer: ArrayBuffer[] = [];
    let reply: ReplyMessage;
    try {
      reply = { id: request.id, body: await answer(request, transfer) };
    } catch (error) {
      const user = error instanceof UserError ? { field: error.options.field } : undefined;
      reply = { id: request.id, error: { message: messageOf(error), user } };
    }
    port.postMessage(reply, transfer);
  });
});

async function answer({ kind, body }: RequestMessage, transfer: ArrayBuffer[]): Promise<unknown> {
  if (kind === "open") {
    engine = await openEngine(body as Requests["open"]);
    const { inputs, outputs, device } = engine;
    return { inputs, outputs, device };
  }
  invariant(engine, `'${kind}' before 'open'`);
  switch (kind) {
    case "run":
      return { outputs: await engine.run(body as Requests["run"], transfer) };
    case "read":
      return { tensor: engine.read((body as Requests["read"]).input, transfer) };
    case "write": {
      const { input, tensor } = body as Requests["write"];
      engine.write(input, tensor);
      return {};
    }
    case "profile":
      return { profile: await engine.profile() };
    case "close":
      await engine.close();
      engine = undefined;
      return { held: heldBytes() };
  }
}

/** What this thread's heap and its typed arrays hold, garbage included. */
function heldBytes(): number {
  const { used_heap_size, external_memory } = getHeapStatistics();
  return used_heap_size + external_memory;
}
