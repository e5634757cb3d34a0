export default {
  test: { include: ["test/**/*.test.js"], setupFiles: ["test/setup.js"], testTimeout: 30_000, maxConcurrency: 50 },
};
