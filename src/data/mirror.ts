/** Copies rows of `width` samples, each turned round: images of any layout whose last axis is the width. */
export function mirror(source: Uint8Array, target: Uint8Array, width: number): void {
  for (let row = 0; row < source.length; row += width) {
    for (let x = 0; x < width; x++) target[row + x] = source[row + width - 1 - x]!;
  }
}
