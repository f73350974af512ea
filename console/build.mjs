// Builds gateway/console/web: `node build.mjs OUT_DIR`. The same sources and lock give the same bytes.
import * as esbuild from "esbuild";
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";
import { feature } from "topojson-client";
import { presimplify, simplify } from "topojson-simplify";

const here = dirname(fileURLToPath(import.meta.url));
const out = process.argv[2];
if (!out) throw new Error("usage: node build.mjs OUT_DIR");

/** The outline of the land as one small SVG: x is the longitude + 180, y is 90 - the latitude. */
function world() {
  const require = createRequire(import.meta.url);
  const topology = JSON.parse(readFileSync(require.resolve("world-atlas/land-110m.json"), "utf8"));
  const smaller = simplify(presimplify(topology), 0.6);
  const land = feature(smaller, smaller.objects.land);
  const shapes = (land.features ?? [land]).map((one) => one.geometry);
  const rings = shapes.flatMap((one) => (one.type === "Polygon" ? one.coordinates : one.coordinates.flat()));
  return rings.map(ring).filter(Boolean).join("");
}

/** A ring that passes the date line goes on beyond the edge, and is drawn at the other edge once more. */
function ring(points) {
  let turn = 0;
  const unrolled = points.map(([lon, lat], at) => {
    const step = at === 0 ? 0 : lon - points[at - 1][0];
    if (Math.abs(step) > 180) turn -= Math.sign(step) * 360;
    return [lon + turn, lat];
  });
  if (turn !== 0 || unrolled.every(([, lat]) => lat < -60)) return "";
  const lons = unrolled.map(([lon]) => lon);
  const shifts = [0, ...(Math.max(...lons) > 180.1 ? [-360] : []), ...(Math.min(...lons) < -180.1 ? [360] : [])];
  return shifts.map((shift) => path(unrolled.map(([lon, lat]) => [lon + shift, lat]))).join("");
}

function path(points) {
  const placed = points.map(([lon, lat]) => [Math.round((lon + 180) * 5) / 5, Math.round((90 - lat) * 5) / 5]);
  const kept = placed.filter(([x, y], at) => at === 0 || x !== placed[at - 1][0] || y !== placed[at - 1][1]);
  return kept.length < 4 ? "" : `M${kept.map((point) => point.join(" ")).join("L")}z`;
}

const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 360 150" preserveAspectRatio="none"><path d="${world()}"/></svg>\n`;
mkdirSync(join(here, "made"), { recursive: true });
writeFileSync(join(here, "made", "world.svg"), svg);

rmSync(out, { recursive: true, force: true });
mkdirSync(join(out, "assets"), { recursive: true });
const result = await esbuild.build({
  absWorkingDir: here,
  entryPoints: { app: "src/main.tsx", theme: "src/theme-first.ts", style: "src/style.css" },
  outdir: join(out, "assets"),
  bundle: true,
  splitting: true,
  format: "esm",
  target: "es2022",
  minify: true,
  metafile: true,
  jsx: "automatic",
  jsxImportSource: "preact",
  loader: { ".svg": "file" },
  entryNames: "[name]-[hash]",
  chunkNames: "part-[hash]",
  assetNames: "[name]-[hash]",
  legalComments: "none",
  logLevel: "warning",
});

const made = Object.entries(result.metafile.outputs);
const named = (source) => {
  const found = made.find(([, facts]) => facts.entryPoint === source);
  if (!found) throw new Error(`nothing was made of ${source}`);
  return `/console/assets/${found[0].split("/").pop()}`;
};
const page = readFileSync(join(here, "src", "index.html"), "utf8")
  .replace("{{style}}", named("src/style.css"))
  .replace("{{theme}}", named("src/theme-first.ts"))
  .replace("{{app}}", named("src/main.tsx"));
writeFileSync(join(out, "index.html"), page);
writeFileSync(join(out, "favicon.svg"), readFileSync(join(here, "src", "favicon.svg")));

// Compressed once here, so that serving costs nothing. Other releases of Node may compress to other bytes.
for (const entry of readdirSync(out, { recursive: true, withFileTypes: true })) {
  if (!entry.isFile()) continue;
  const path = join(entry.parentPath ?? entry.path, entry.name);
  const body = readFileSync(path);
  if (body.length < 1000) continue;
  writeFileSync(`${path}.gz`, gzipSync(body, { level: 9 }));
  writeFileSync(`${path}.br`, brotliCompressSync(body, { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } }));
}

const sizes = made.filter(([name]) => name.endsWith(".js")).map(([, facts]) => facts.bytes);
const total = sizes.reduce((sum, bytes) => sum + bytes, 0);
const digest = createHash("sha256").update(page).digest("hex").slice(0, 12);
console.log(`${made.length} files, ${total} bytes of script, page ${digest}`);
