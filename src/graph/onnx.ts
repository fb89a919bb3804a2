import { create } from "@bufbuild/protobuf";
import {
  TensorProto_DataLocation as DataLocation,
  type NodeProto,
  NodeProtoSchema,
  StringStringEntryProtoSchema,
  type TensorProto,
  TensorProtoSchema,
} from "onnx-buf";
import { invariant } from "../core/errors.ts";
import type { DType, HostTensor, Shape } from "../core/host-tensor.ts";
import { attribute, bytesOf, type Domain, hash, modelBytes, ONNX_TYPES } from "./onnx-protobuf.ts";
import { inputOperator, type NamedLeaf } from "./ops/leaf.ts";
import { type PackedMatrix, type PackedValue, pack, unpack } from "./packed.ts";
import { type AheadModel, stages } from "./stages.ts";
import { type Node, type Tensor, type TensorType, topological } from "./tensor.ts";

/** What the graph will run on; operators choose between equivalent ONNX forms by it. */
export interface Target {
  /** ONNX Runtime's CPU provider has contrib operators (FusedMatMul, QuickGelu …) that other providers lack. */
  readonly contrib: boolean;
  /** Channels per block of the CPU's blocked convolutions: 16 with AVX-512, 8 with AVX2, 0 for none. */
  readonly blockedChannels: 0 | 8 | 16;
  /**
   * What depends on weights alone (converted, blocked, sliced weights) is not part of the model but of others that are run
   * once, when the session is opened: see {@link OnnxModel.ahead}.
   */
  readonly ahead?: boolean;
}

/** Standard ONNX only: right everywhere, fastest nowhere. */
export const portableTarget: Target = { contrib: false, blockedChannels: 0 };

/** Where a leaf's value comes from when the graph is written out. */
export type Binding =
  /** Fed at every run under this name. */
  | { readonly kind: "input"; readonly name: string }
  /** Bytes inside a file beside the model, such as a .safetensors file; cast to the leaf's dtype in the graph. */
  | {
      readonly kind: "external";
      readonly file: string;
      readonly offset: number;
      readonly length: number;
      readonly dtype: DType;
      readonly name?: string;
    }
  /** Stored inside the model. */
  | { readonly kind: "data"; readonly tensor: HostTensor; readonly name?: string }
  /** A matrix in 4 or 8 bits, stored inside the model. */
  | ({ readonly kind: "packed"; readonly name: string } & PackedMatrix)
  /** A matrix that is rounded to 4 or 8 bits when the model is loaded. */
  | ({ readonly kind: "rounded"; readonly of: Binding } & Pick<PackedMatrix, "bits" | "blockSize">)
  /** Another tensor of the same graph, such as a slice of one flat vector. */
  | { readonly kind: "tensor"; readonly tensor: Tensor };

/** An attribute that ONNX wants as a float. Plain numbers are written as integers. */
export interface Float {
  readonly float: number;
}
/** Marks a number as a float attribute. */
export const float = (value: number): Float => ({ float: value });

/** Attributes of an ONNX node. */
export type Attributes = Readonly<Record<string, number | Float | string | readonly number[]>>;

/** What operators write themselves with. */
export interface Emitter {
  readonly target: Target;
  /** Adds a node with one output and returns its name. */
  op(type: string, inputs: readonly string[], attributes?: Attributes, domain?: Domain): string;
  /** Adds a node with several outputs and returns their names. */
  ops(type: string, inputs: readonly string[], outputs: number, attributes?: Attributes): string[];
  /** A constant; equal small ones are shared. */
  constant(value: HostTensor): string;
  /** An int64 vector constant, as shapes and axes are given. */
  ints(values: readonly number[]): string;
  /** Whether the value is known before the run (constants and bound weights). */
  isConstant(name: string): boolean;
  /** Tells the type of a value inside an operator, so that it can be computed ahead where it depends on weights alone. */
  typed(name: string, type: TensorType): string;
  /** How a value is packed, if it is the value of a packed matrix. */
  packed(name: string): PackedValue | undefined;
  /** The value of a leaf by its binding. */
  leaf(tensor: Tensor): string;
  /** Whether anything else in the graph needs this result of a node; results nobody needs need not be written. */
  isUsed(tensor: Tensor): boolean;
}

/** An ONNX model and what it expects. */
export interface OnnxModel {
  readonly bytes: Uint8Array;
  readonly inputs: Readonly<Record<string, TensorType>>;
  readonly outputs: Readonly<Record<string, TensorType>>;
  /** Models whose outputs the model takes as inputs beside `inputs`; first those that take none. */
  readonly ahead: readonly AheadModel[];
}

export interface OnnxOptions {
  /** Where each parameter's value comes from; inputs are fed under their own names. */
  readonly bind?: (leaf: Tensor) => Binding | undefined;
  /** What it will run on. */
  readonly target?: Target;
  /**
   * Inputs that often stay the same from run to run: what depends on no others is computed when they change, by a model of
   * its own.
   */
  readonly steady?: readonly string[];
}

/**
 * Writes the graph that computes `outputs` as an ONNX model.
 *
 * @param outputs the results by the names they get
 * @throws Error for a parameter without a binding
 */
export function toOnnx(outputs: Readonly<Record<string, Tensor>>, options: OnnxOptions = {}): OnnxModel {
  const writing = onnxInTurns(outputs, options);
  for (;;) {
    const { done, value } = writing.next();
    if (done) return value;
  }
}

/** Nodes that are written between two turns: a few milliseconds' worth. */
const NODES_A_TURN = 8;

/** The same in turns, between which something else may be done: large graphs take a tenth of a second and more. */
export function* onnxInTurns(
  outputs: Readonly<Record<string, Tensor>>,
  { bind = () => undefined, target = portableTarget, steady }: OnnxOptions = {},
): Generator<void, OnnxModel, void> {
  const roots = Object.values(outputs);
  const nodes = topological(roots);
  const writer = new Writer(target, bind, new Set([...roots, ...nodes.flatMap((node) => node.inputs)]));
  for (const [i, node] of nodes.entries()) {
    writer.node(node);
    if (i % NODES_A_TURN === NODES_A_TURN - 1) yield;
  }
  for (const [name, tensor] of Object.entries(outputs)) writer.output(name, tensor);
  yield;
  return writer.finish(new Set(steady));
}

class Writer implements Emitter {
  private readonly nodes: NodeProto[] = [];
  private readonly initializers: TensorProto[] = [];
  private readonly names = new Map<Tensor, string>();
  /** What was written for a node's description: operators have no side effects, so equal nodes are one. */
  private readonly written = new Map<string, string[]>();
  /** By result: what was transposed, and how. */
  private readonly transposed = new Map<string, { readonly value: string; readonly perm: readonly number[] }>();
  private readonly shared = new Map<string, { readonly name: string; readonly bytes: Uint8Array }[]>();
  private readonly constants = new Set<string>();
  /** Constants that hold weights. */
  private readonly weights = new Set<string>();
  private readonly types = new Map<string, TensorType>();
  private readonly packedValues = new Map<string, PackedValue>();
  private readonly inputs = new Map<string, TensorType>();
  private readonly outputs = new Map<string, TensorType>();
  /** The value behind each output. */
  private readonly results = new Map<string, string>();
  private scope = "";
  private count = 0;

  constructor(
    readonly target: Target,
    private readonly bind: (leaf: Tensor) => Binding | undefined,
    private readonly used: ReadonlySet<Tensor>,
  ) {}

  isUsed(tensor: Tensor): boolean {
    return this.used.has(tensor);
  }

  output(name: string, tensor: Tensor): void {
    const value = this.value(tensor);
    invariant(!this.outputs.has(name), `two outputs are called ${name}`);
    this.outputs.set(name, tensor);
    this.results.set(name, value);
  }

  /** The name of a tensor's value; writes whatever it needs first. */
  private value(tensor: Tensor): string {
    const known = this.names.get(tensor);
    if (known) return known;
    for (const node of topological([tensor])) this.node(node);
    return this.names.get(tensor)!;
  }

  /** Writes a node whose inputs are written. */
  node(node: Node): void {
    if (this.names.has(node.outputs[0]!)) return;
    this.scope = `${node.scope}/${node.operator.name}`;
    const inputs = node.inputs.map((x) => this.names.get(x)!);
    const written = node.operator.onnx(this, inputs, node);
    const names = typeof written === "string" ? [written] : written;
    node.outputs.forEach((x, i) => {
      this.names.set(x, names[i]!);
      if (names[i]) this.typed(names[i]!, x);
    });
  }

  op(type: string, inputs: readonly string[], attributes: Attributes = {}, domain: Domain = ""): string {
    return this.write(type, inputs, 1, attributes, domain)[0]!;
  }

  ops(type: string, inputs: readonly string[], outputs: number, attributes: Attributes = {}): string[] {
    return this.write(type, inputs, outputs, attributes, "");
  }

  private write(type: string, inputs: readonly string[], outputs: number, attributes: Attributes, domain: string) {
    const undone = type === "Transpose" ? this.undone(inputs[0]!, attributes) : undefined;
    if (undone) return [undone];
    const description = `${domain}:${type}(${inputs})${outputs}${JSON.stringify(attributes)}`;
    const known = this.written.get(description);
    if (known) return known;
    const names = Array.from({ length: outputs }, () => `#${this.count++}`);
    this.written.set(description, names);
    if (type === "Transpose") {
      this.transposed.set(names[0]!, { value: inputs[0]!, perm: attributes.perm as readonly number[] });
    }
    this.nodes.push(
      create(NodeProtoSchema, {
        opType: type,
        domain,
        name: `${this.scope}/${type}:${names[0]}`,
        input: [...inputs],
        output: names,
        attribute: Object.entries(attributes).map(([name, value]) => attribute(name, value)),
      }),
    );
    return names;
  }

  /** What a transposition that undoes the one before it gives. */
  private undone(value: string, { perm }: Attributes): string | undefined {
    const before = this.transposed.get(value);
    const identical = before?.perm.every((axis, i) => (perm as readonly number[])[axis] === i);
    return identical ? before!.value : undefined;
  }

  constant(value: HostTensor): string {
    const bytes = bytesOf(value.data);
    const key = `${value.dtype}[${value.shape}]${hash(bytes)}`;
    const similar = this.shared.get(key) ?? [];
    const known = similar.find((other) => bytes.every((byte, i) => byte === other.bytes[i]));
    if (known) return known.name;
    const name = `#${this.count++}`;
    this.initialize(name, value.dtype, value.shape, { rawData: bytes });
    this.shared.set(key, [...similar, { name, bytes }]);
    return name;
  }

  ints(values: readonly number[]): string {
    return this.constant({ dtype: "int64", shape: [values.length], data: BigInt64Array.from(values, BigInt) });
  }

  isConstant(name: string): boolean {
    return this.constants.has(name);
  }

  typed(name: string, { dtype, shape }: TensorType): string {
    if (!this.types.has(name)) this.types.set(name, { dtype, shape });
    return name;
  }

  packed(name: string): PackedValue | undefined {
    return this.packedValues.get(name);
  }

  leaf(tensor: Tensor): string {
    const { operator, attributes } = tensor.node;
    const binding = this.bind(tensor);
    if (!binding) {
      invariant(operator.name === inputOperator, "a parameter has no binding");
      return this.graphInput((attributes as NamedLeaf).name, tensor);
    }
    return this.bound(binding, tensor);
  }

  private bound(binding: Binding, tensor: Tensor): string {
    switch (binding.kind) {
      case "input":
        return this.graphInput(binding.name, tensor);
      case "tensor":
        return this.value(binding.tensor);
      case "data": {
        const { dtype, shape, data } = binding.tensor;
        const name = binding.name ?? `#${this.count++}`;
        this.weights.add(name);
        this.initialize(name, dtype, shape, { rawData: bytesOf(data) });
        return this.cast(name, dtype, tensor);
      }
      case "packed":
        return this.unpacked(this.storedCodes(binding.name, binding), binding.scales.shape, tensor.shape);
      case "rounded": {
        const packed = pack(this, this.bound(binding.of, tensor), tensor.shape, binding);
        return this.unpacked(packed, this.types.get(packed.scales)!.shape, tensor.shape);
      }
      case "external": {
        const name = binding.name ?? `#${this.count++}`;
        this.weights.add(name);
        const entries = { location: binding.file, offset: binding.offset, length: binding.length };
        this.initialize(name, binding.dtype, tensor.shape, {
          dataLocation: DataLocation.EXTERNAL,
          externalData: Object.entries(entries).map(([key, value]) =>
            create(StringStringEntryProtoSchema, { key, value: String(value) }),
          ),
        });
        return this.cast(name, binding.dtype, tensor);
      }
    }
  }

  private storedCodes(name: string, { bits, blockSize, codes, scales }: PackedMatrix): PackedValue {
    const packed = { bits, blockSize, codes: `${name}.codes`, scales: `${name}.scales` };
    this.initialize(packed.codes, "uint8", codes.shape, { rawData: bytesOf(codes.data) });
    this.initialize(packed.scales, "float32", scales.shape, { rawData: bytesOf(scales.data) });
    return packed;
  }

  /** The numbers of a packed matrix; what multiplies by it takes it as it is, and then these nodes are not needed. */
  private unpacked(packed: PackedValue, blocks: Shape, shape: Shape): string {
    const value = unpack(this, packed, blocks, shape);
    this.constants.add(value);
    this.packedValues.set(value, packed);
    return value;
  }

  private cast(name: string, from: DType, to: TensorType): string {
    if (from === to.dtype) return name;
    const cast = this.op("Cast", [name], { to: ONNX_TYPES[to.dtype] });
    this.constants.add(cast);
    return cast;
  }

  private graphInput(name: string, type: TensorType): string {
    const known = this.inputs.get(name);
    invariant(!known || `${known.dtype}${known.shape}` === `${type.dtype}${type.shape}`, `input ${name} has two types`);
    this.inputs.set(name, type);
    return name;
  }

  private initialize(name: string, dtype: DType, shape: Shape, content: Partial<TensorProto>): void {
    this.constants.add(name);
    this.initializers.push(
      create(TensorProtoSchema, { name, dataType: ONNX_TYPES[dtype], dims: shape.map(BigInt), ...content } as never),
    );
  }

  /** Leaves out nodes and constants that no output needs: packed weights are written in two forms, for example. */
  private prune(): void {
    const needed = new Set(this.results.values());
    for (const node of [...this.nodes].reverse()) {
      if (node.output.some((value) => needed.has(value))) for (const value of node.input) needed.add(value);
    }
    const keep = <T>(list: T[], wanted: (item: T) => boolean) => list.splice(0, list.length, ...list.filter(wanted));
    keep(this.nodes, (node) => node.output.some((value) => needed.has(value)));
    keep(this.initializers, ({ name }) => needed.has(name));
  }

  /** Gives each output its name: by renaming the value, or by a copy where that is an input or has a name already. */
  private nameOutputs(): void {
    const made = new Set(this.nodes.flatMap((node) => node.output));
    const renamed = new Map<string, string>();
    for (const [name, value] of this.results) {
      if (made.has(value) && !renamed.has(value)) renamed.set(value, name);
      else this.nodes.push(create(NodeProtoSchema, { opType: "Identity", input: [value], output: [name], name }));
    }
    for (const node of this.nodes) {
      node.input = node.input.map((value) => renamed.get(value) ?? value);
      node.output = node.output.map((value) => renamed.get(value) ?? value);
    }
  }

  finish(steady: ReadonlySet<string>): OnnxModel {
    this.prune();
    this.nameOutputs();
    const written = { nodes: this.nodes, initializers: this.initializers, inputs: this.inputs, outputs: this.outputs };
    const { types, weights } = this;
    const { main, ahead } = stages(written, { types, weights, steady, once: this.target.ahead ?? false });
    return {
      bytes: modelBytes(main),
      inputs: Object.fromEntries(this.inputs),
      outputs: Object.fromEntries(this.outputs),
      ahead,
    };
  }
}
