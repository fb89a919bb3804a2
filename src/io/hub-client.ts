import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { ListFileEntry } from "@huggingface/hub";
import { messageOf, UserError } from "../core/errors.ts";
import { hubHome, isCommit } from "./hub-cache.ts";
import type { Download } from "./hub-download.ts";

const PUBLIC_HUB = "https://huggingface.co";

/** How the hub is spoken to. */
export interface HubConnection {
  readonly endpoint?: string;
  readonly token?: string;
  readonly signal?: AbortSignal;
}

/** A model of the hub at a revision. */
export interface HubModel {
  readonly id: string;
  readonly revision: string;
  /** What the user gave, where it is not the id alone. */
  readonly given?: string;
}

/** The hub was not reached, or what answered did not answer as a hub: what was downloaded before may do. */
export class NoAnswer extends Error {
  constructor(
    message: string,
    readonly hint: string,
    cause: unknown,
  ) {
    super(message, { cause });
  }
}

/**
 * What the hub has of a model at a revision.
 *
 * @throws NoAnswer when there is no hub to be asked
 * @throws UserError when it refuses
 */
export async function connect(model: HubModel, connection: HubConnection) {
  const { id, revision } = model;
  const { endpoint = process.env.HF_ENDPOINT || PUBLIC_HUB, signal } = connection;
  // Loaded only when it is needed: most runs are of folders.
  const { downloadFile, HubApiError, listFiles, modelInfo } = await import("@huggingface/hub");
  const accessToken = connection.token ?? (await storedToken());
  if (accessToken !== undefined && !accessToken.startsWith("hf_")) {
    throw new UserError("The hub's access token does not begin with hf_.", { field: "token" });
  }
  let last: { readonly status: number; readonly code: string | null } | undefined;
  const common = {
    hubUrl: endpoint.replace(/\/$/, ""),
    accessToken,
    fetch: (async (address, init) => {
      const response = await fetch(address, { ...init, signal });
      last = { status: response.status, code: response.headers.get("x-error-code") };
      const from = /^bytes=(\d+)-/.exec(new Headers(init?.headers).get("range") ?? "")?.[1];
      if (Number(from ?? 0) > 0 && response.status === 200) {
        throw new Error("the server does not give parts of files");
      }
      return response;
    }) satisfies typeof fetch,
  };
  const explained = (error: unknown): unknown => {
    if (signal?.aborted) return error;
    if (error instanceof TypeError && /^(fetch failed|terminated)$/.test(error.message)) {
      const reason = messageOf(error.cause ?? error);
      return new NoAnswer(`The hub cannot be reached (${reason})`, "Check the connection.", error);
    }
    if (last && isPassing(last.status)) return passing(last.status, error);
    return error instanceof HubApiError
      ? refusal(model, error.statusCode, last?.code, accessToken !== undefined)
      : error;
  };
  const files = new Map<string, ListFileEntry>();
  let commit: string;
  try {
    const { sha } = await modelInfo({ ...common, name: id, revision, additionalFields: ["sha"] });
    if (!isCommit(sha)) throw new SyntaxError(`${JSON.stringify(sha)} is given as the commit of ${id}`);
    commit = sha;
    for await (const entry of listFiles({
      ...common,
      repo: { type: "model", name: id },
      recursive: true,
      revision: commit,
    })) {
      if (entry.type === "file" && isSafePath(entry.path)) files.set(entry.path, entry);
    }
  } catch (error) {
    const reason = explained(error);
    // Not JSON, or JSON of another kind.
    if (reason instanceof SyntaxError || reason instanceof TypeError) throw notHub(common.hubUrl, reason);
    throw reason;
  }
  return {
    commit,
    files,
    download: ({ path, size, lfs, oid }: ListFileEntry): Download => {
      const hash = lfs?.oid ?? oid ?? "";
      if (!/^([0-9a-f]{40}|[0-9a-f]{64})$/.test(hash)) throw new Error(`the hub gives no hash of ${path}`);
      return {
        what: `${id}/${path}`,
        ...{ size, hash, signal },
        isFinal: (error) => error instanceof UserError || signal?.aborted === true,
        async open(from) {
          try {
            const blob = await downloadFile({ ...common, repo: { type: "model", name: id }, path, revision: commit });
            if (!blob) throw new UserError(`${id} has no file ${path} any more.`);
            // The client reports what its stream fails with as a text.
            return (from > 0 ? blob.slice(from, blob.size) : blob).stream() as unknown as AsyncIterable<Uint8Array>;
          } catch (error) {
            throw explained(error);
          }
        },
      };
    },
  };
}

/** A repository's paths become paths in the cache: none may lead out of it. */
function isSafePath(path: string): boolean {
  return !path.startsWith("/") && !path.includes("\\") && !path.split("/").some((step) => step === ".." || step === "");
}

/** Whether a status says nothing of the model: the hub is overloaded, down or counts requests. */
const isPassing = (status: number) => status >= 500 || status === 429 || status === 408;

function passing(status: number, cause: unknown): NoAnswer {
  const hint =
    status === 429
      ? "It counts requests: wait some minutes, or give an access token (HF_TOKEN), with which more are allowed."
      : "Wait some minutes and try again.";
  return new NoAnswer(`The hub answered with status ${status}`, hint, cause);
}

function notHub(address: string, cause: unknown): NoAnswer {
  const hint =
    "Something else may answer in its place, such as the log-in page of a network; HF_ENDPOINT may name another address.";
  return new NoAnswer(`${address} does not answer as a hub does (${messageOf(cause)})`, hint, cause);
}

function refusal(
  { id, revision, given = id }: HubModel,
  status: number,
  code: string | null | undefined,
  hasToken: boolean,
): Error {
  const tokenHint = hasToken
    ? "The access token given does not allow it."
    : "Give an access token: the option token, or the environment variable HF_TOKEN.";
  if (code === "RevisionNotFound") {
    return new UserError(`${id} has no revision ${revision}.`, { field: "revision" });
  }
  if (code === "GatedRepo" || status === 403) {
    return new UserError(`Access to ${id} is restricted.`, {
      hint: `Accept its conditions on the model's page of the hub. ${tokenHint}`,
      field: "model",
    });
  }
  if (status === 404 || status === 401) {
    const nor = given === id ? "a folder of this name" : `a file ${given} here`;
    return new UserError(`There is no public model ${id} on the hub, nor ${nor}.`, {
      hint: `Check its spelling. If it is private: ${tokenHint}`,
      field: "model",
    });
  }
  return new UserError(`The hub refused ${id}: status ${status}${code ? ` (${code})` : ""}.`, { field: "model" });
}

/** The token of the environment, or the one that the hub's own command stored. */
async function storedToken(): Promise<string | undefined> {
  const { HF_TOKEN, HUGGING_FACE_HUB_TOKEN, HF_TOKEN_PATH } = process.env;
  const given = HF_TOKEN || HUGGING_FACE_HUB_TOKEN;
  if (given) return given;
  const text = await readFile(HF_TOKEN_PATH || join(hubHome(), "token"), "utf8").catch(() => "");
  return text.trim() || undefined;
}
