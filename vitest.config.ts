import { defineConfig } from "vitest/config";

// `npm test` leaves out *.slow.test.ts; `npm run test:slow` runs only those.
const slow = process.env.ALLEGORY_TESTS === "slow";

export default defineConfig({
  test: {
    include: slow ? ["{src,test}/**/*.slow.test.ts"] : ["{src,test}/**/*.test.ts"],
    exclude: slow ? [] : ["**/*.slow.test.ts"],
    pool: "forks",
    // Fast files share two processes, with their modules and idle session threads: half the time of a process for each. So no test
    // may mock a module or leave the environment, the working folder or a global changed.
    isolate: slow,
    // Runtime workers are TypeScript files when run from source; they inherit this loader.
    execArgv: ["--import", "tsx"],
    testTimeout: slow ? 1_200_000 : 240_000,
    hookTimeout: slow ? 1_200_000 : 240_000,
    maxWorkers: 2,
  },
});
