/** Makes headwater.js, one module, from src/. `npm run build -- --check` only says whether it is up to date. */

import { readFileSync, writeFileSync } from "node:fs";
import { buildSync } from "esbuild";

const target = new URL("headwater.js", import.meta.url);
const { outputFiles } = buildSync({
  absWorkingDir: new URL(".", import.meta.url).pathname,
  entryPoints: ["src/headwater.js"],
  bundle: true,
  format: "esm",
  target: "es2022",
  charset: "utf8",
  banner: { js: "// Made from src/ by build.mjs; edit it there." },
  write: false,
});
const made = outputFiles[0].text;
if (!process.argv.includes("--check")) writeFileSync(target, made);
else if (readFileSync(target, "utf8") !== made) {
  console.error("headwater.js is not what src/ makes: run `npm run build`.");
  process.exitCode = 1;
}
