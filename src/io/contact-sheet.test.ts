import { expect, test } from "vitest";
import { UserError } from "../core/errors.ts";
import { contactSheet, hostImage } from "./index.ts";

const filled = (value: number) => hostImage(10, 8, 1, new Uint8Array(80).fill(value));

test("a contact sheet has its pictures in rows and columns beside their headings", async () => {
  const options = { columns: ["1", "2"], rows: ["euler", "heun"], scale: 4, gap: 2 };
  const sheet = await contactSheet([filled(10), filled(20), undefined, filled(40)], options);
  const at = (x: number, y: number) => sheet.data[(y * sheet.width + x) * 3];
  const [x, y] = [sheet.width - (2 * 42 + 2), sheet.height - (2 * 34 + 2)];
  // The middles of the four places.
  expect([at(x + 22, y + 18), at(x + 64, y + 18), at(x + 22, y + 52), at(x + 64, y + 52)]).toEqual([10, 20, 255, 40]);
  const ink = (x0: number, x1: number, y0: number, y1: number) => {
    let dark = 0;
    for (let row = y0; row < y1; row++) for (let column = x0; column < x1; column++) if (at(column, row)! < 128) dark++;
    return dark;
  };
  expect(ink(x, sheet.width, 0, y)).toBeGreaterThan(10); // the headings of the columns
  expect(ink(0, x, y, sheet.height)).toBeGreaterThan(20); // and of the rows
  expect(ink(0, x, 0, y)).toBe(0);
});

test("pictures of several sizes stand in the middle of places as large as the largest", async () => {
  const gray = hostImage(4, 2, 1, new Uint8Array(8).fill(50));
  const red = hostImage(
    8,
    6,
    3,
    Uint8Array.from({ length: 144 }, (_, i) => (i % 3 === 0 ? 200 : 0)),
  );
  const sheet = await contactSheet([gray, red], { columns: ["", ""], rows: ["row"], gap: 2 });
  const at = (x: number, y: number) => [
    ...sheet.data.subarray((y * sheet.width + x) * 3, (y * sheet.width + x) * 3 + 3),
  ];
  // A line for headings above; the gap around the places.
  const [left, top] = [sheet.width - (2 * 10 + 2) + 2, 20 + 2];
  expect([at(left + 1, top + 2), at(left + 2, top + 1), at(left + 2, top + 2), at(left + 5, top + 3)]).toEqual([
    ...Array(2).fill([255, 255, 255]),
    ...Array(2).fill([50, 50, 50]),
  ]);
  expect([at(left + 10, top), at(left + 17, top + 5)]).toEqual(Array(2).fill([200, 0, 0]));
});

test.each(["dpm++2m", "MMMM @@@@ WWWW", "a lighthouse at dawn, painted in oil — 漢字"])(
  "headings and titles are not cut off: %s",
  async (label) => {
    // Whether ink touches the sheet's border, or the two headings each other.
    const sheet = await contactSheet([filled(0), filled(0)], { columns: [label, label], rows: [label], title: label });
    const dark = (x: number, y: number) => sheet.data[(y * sheet.width + x) * 3]! < 200;
    const [xs, ys] = [sheet.width, sheet.height].map((size) => Array.from({ length: size }, (_, i) => i)) as [
      number[],
      number[],
    ];
    expect(ys.filter((y) => dark(0, y) || dark(sheet.width - 1, y))).toEqual([]);
    expect(xs.filter((x) => dark(x, 0) || dark(x, sheet.height - 1))).toEqual([]);
    // The longest stretch without ink between the two headings, which end where the sheet does.
    const headings = xs.map((x) => ys.slice(20, 40).some((y) => dark(x, y)));
    const width = headings.lastIndexOf(true) - headings.indexOf(true);
    const between = Math.floor((headings.indexOf(true) + headings.lastIndexOf(true)) / 2);
    expect(width).toBeGreaterThan(2 * 40);
    expect(headings.slice(between - 2, between + 2)).toEqual(Array(4).fill(false));
  },
);

test("a contact sheet without a picture is a user's mistake", async () => {
  await expect(contactSheet([undefined], { columns: ["a"], rows: ["b"] })).rejects.toBeInstanceOf(UserError);
});
