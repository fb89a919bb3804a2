import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** A repository of the test hub. */
export interface TestRepo {
  readonly files: Readonly<Record<string, Uint8Array>>;
  /** Needs this token. */
  readonly token?: string;
  readonly gated?: boolean;
}

/** For tests: a server that speaks the paths of the Hugging Face hub, and can misbehave. */
export interface TestHub {
  readonly endpoint: string;
  /** Every request so far: `GET path`, with the range asked for and the host's role. */
  readonly requests: {
    readonly path: string;
    readonly range: string | undefined;
    readonly token: string | undefined;
  }[];
  /**
   * How the store of large files misbehaves with the next requests: breaks off after so many bytes, sends half and then a byte now
   * and then, or otherwise.
   */
  readonly faults: (number | "ignores ranges" | "damages" | "fails" | "trickles")[];
  /** What everything but large files is answered with: a status, or a page in the place of what was asked for. */
  outage: 429 | 500 | 503 | "page" | undefined;
  /** Ends all connections. */
  breakOff(): void;
  close(): Promise<void>;
}

export const COMMIT = "0123456789abcdef0123456789abcdef01234567";

const LARGE = /\.(safetensors|bin)$/;
const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");
/** The name that git gives to a file's content. */
const gitHash = (bytes: Uint8Array) => createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");

/** Serves repositories, all at one commit with the branch `main` and the tag `v1`. */
export async function testHub(repos: Readonly<Record<string, TestRepo>>): Promise<TestHub> {
  const requests: TestHub["requests"] = [];
  const faults: TestHub["faults"] = [];
  // Large files come from another host, as on the real hub: tokens must not be sent there.
  const store = createServer((request, response) => {
    note(request);
    const bytes = Object.values(repos)
      .flatMap(({ files }) => Object.values(files))
      .find((each) => request.url === `/${sha256(each)}`);
    if (!bytes) return void response.writeHead(404).end();
    // The first byte is asked for only to learn the size.
    send(request, response, bytes, request.headers.range === "bytes=0-0" ? undefined : faults.shift());
  });
  const hub = createServer((request, response) => {
    note(request);
    if (served.outage === "page") {
      return void response.writeHead(200, { "content-type": "text/html" }).end("<html>Log in</html>");
    }
    if (served.outage) return void response.writeHead(served.outage).end("Not now");
    const { pathname } = new URL(request.url!, "http://hub");
    const refuse = (status: number, code: string) =>
      void response
        .writeHead(status, { "x-error-code": code, "content-type": "application/json" })
        .end(JSON.stringify({ error: code }));
    const [, api, id, kind, revision, path] =
      /^\/(api\/models\/)?([\w.-]+\/[\w.-]+)\/(revision|tree|resolve)\/([^/]+)\/?(.*)$/.exec(pathname) ?? [];
    const repo = repos[id ?? ""];
    if (!repo) return refuse(401, "RepoNotFound");
    if (repo.token && request.headers.authorization !== `Bearer ${repo.token}`) {
      return refuse(repo.gated ? 403 : 401, repo.gated ? "GatedRepo" : "RepoNotFound");
    }
    if (!["main", "v1", COMMIT].includes(decodeURIComponent(revision!))) return refuse(404, "RevisionNotFound");
    const json = (value: unknown, headers = {}) =>
      void response.writeHead(200, { "content-type": "application/json", ...headers }).end(JSON.stringify(value));
    if (api && kind === "revision") return json({ _id: "1", id, sha: COMMIT, lastModified: "2026-01-01T00:00:00Z" });
    if (api && kind === "tree") {
      // In pages of three.
      const entries = Object.entries(repo.files).map(([name, bytes]) => entry(name, bytes));
      const page = Number(new URL(request.url!, "http://hub").searchParams.get("cursor") ?? 0);
      const next = `${endpoint(hub)}${pathname}?recursive=true&cursor=${page + 3}`;
      return json(entries.slice(page, page + 3), page + 3 < entries.length ? { link: `<${next}>; rel="next"` } : {});
    }
    const bytes = repo.files[decodeURIComponent(path!)];
    if (!bytes) return refuse(404, "EntryNotFound");
    if (!LARGE.test(path!)) return send(request, response, bytes, undefined);
    const headers = {
      location: `${endpoint(store)}/${sha256(bytes)}`,
      "x-linked-size": String(bytes.length),
      "x-linked-etag": `"${sha256(bytes)}"`,
    };
    response.writeHead(302, headers).end();
  });

  const note = (request: IncomingMessage) => {
    const { range, authorization } = request.headers;
    requests.push({ path: request.url!.replace(/\?.*/, ""), range, token: authorization });
  };

  await Promise.all([listen(hub), listen(store)]);
  const served: TestHub = {
    endpoint: endpoint(hub),
    requests,
    faults,
    outage: undefined,
    breakOff() {
      for (const server of [hub, store]) server.closeAllConnections();
    },
    async close() {
      for (const server of [hub, store]) {
        // In this order: a connection that comes between the two would be waited for.
        const closed = new Promise((done) => server.close(done));
        server.closeAllConnections();
        await closed;
      }
    },
  };
  return served;
}

function send(
  request: IncomingMessage,
  response: ServerResponse,
  bytes: Uint8Array,
  fault: TestHub["faults"][number] | undefined,
): void {
  if (fault === "fails") return void response.writeHead(503).end();
  const [, first, last] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "") ?? [];
  const whole = first === undefined || fault === "ignores ranges";
  const start = whole ? 0 : Number(first);
  const end = whole ? bytes.length : last ? Number(last) + 1 : bytes.length;
  const part = fault === "damages" ? bytes.slice(start, end).fill(7) : bytes.subarray(start, end);
  response.writeHead(whole ? 200 : 206, {
    etag: `"${gitHash(bytes)}"`,
    "content-length": part.length,
    ...(whole ? {} : { "content-range": `bytes ${start}-${end - 1}/${bytes.length}` }),
  });
  if (fault === "trickles") {
    let sent = Math.floor(part.length / 2);
    response.write(part.subarray(0, sent));
    const more = setInterval(() => response.write(part.subarray(sent, ++sent)), 50);
    return void response.on("close", () => clearInterval(more));
  }
  if (typeof fault !== "number") return void response.end(part);
  response.write(part.subarray(0, fault), () => setTimeout(() => response.destroy(), 20));
}

function entry(path: string, bytes: Uint8Array) {
  const lfs = LARGE.test(path) ? { lfs: { oid: sha256(bytes), size: bytes.length, pointerSize: 130 } } : {};
  return { type: "file", path, size: bytes.length, oid: gitHash(bytes), ...lfs };
}

const listen = (server: ReturnType<typeof createServer>) =>
  new Promise<void>((done) => server.listen(0, "127.0.0.1", done));

const endpoint = (server: ReturnType<typeof createServer>) =>
  `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
