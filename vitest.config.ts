import { defineConfig } from "vitest/config";

// `npm test` leaves out *.slow.test.ts; `npm run test:slow` runs only those.
const slow = process.env.ALLEGORY_TESTS === "slow";

export default defineConfig({
  test: {
    include: slow ? ["{src,test}/**/*.slow.test.ts"] : ["{src,test}/**/*.test.ts"],
    exclude: slow ? [] : ["**/*.slow.test.ts"],
    pool: "forks",
    // Runtime workers are TypeScript files when run from source; they inherit this loader.
    execArgv: ["--import", "tsx"],
    testTimeout: slow ? 1_200_000 : 240_000,
    hookTimeout: slow ? 1_200_000 : 240_000,
    maxWorkers: 2,
  },
});
