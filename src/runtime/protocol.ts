import type { HostTensor } from "../core/host-tensor.ts";
import type { Profile } from "./profile.ts";
import type { Device, SessionOptions, TensorInfo } from "./session.ts";

/** What goes to the worker that holds a session. Tensors whose data are not shared are transferred. */
export interface Requests {
  open: { model: Uint8Array | { path: string }; options: SessionOptions & { name: string; threads: number } };
  run: {
    feeds: Record<string, HostTensor>;
    fetch: readonly string[] | undefined;
    into: Record<string, HostTensor>;
    /** One shared integer: not zero when the run is no longer wanted. */
    dropped: Int32Array | undefined;
  };
  read: { input: string };
  write: { input: string; tensor: HostTensor };
  profile: object;
  close: object;
}

/** What comes back. */
export interface Replies {
  open: { inputs: TensorInfo[]; outputs: TensorInfo[]; device: Device };
  run: { outputs: Record<string, HostTensor> };
  read: { tensor: HostTensor };
  write: object;
  profile: { profile: Profile };
  /** Bytes that JavaScript still holds in the thread. */
  close: { held: number };
}

export type Kind = keyof Requests;

export interface RequestMessage {
  readonly id: number;
  readonly kind: Kind;
  readonly body: unknown;
}

export type ReplyMessage =
  | { readonly id: number; readonly body: unknown }
  | { readonly id: number; readonly error: ErrorMessage };

/** An error on its way between threads; `user` marks a `UserError`. */
export interface ErrorMessage {
  readonly message: string;
  readonly user?: { readonly field?: string };
}
