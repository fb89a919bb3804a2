/** Lagrange interpolation: coefficients, lowest power first, of the polynomial that is 1 at node k and 0 at the others. */
export function lagrange(nodes: readonly number[], k: number): number[] {
  let polynomial = [1];
  nodes.forEach((node, other) => {
    if (other === k) return;
    const scale = 1 / (nodes[k]! - node);
    const product = new Array<number>(polynomial.length + 1).fill(0);
    polynomial.forEach((coefficient, power) => {
      product[power]! -= coefficient * node * scale;
      product[power + 1]! += coefficient * scale;
    });
    polynomial = product;
  });
  return polynomial;
}
