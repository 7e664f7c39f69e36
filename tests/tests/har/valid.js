// Checks HAR archives against the schemas of npm's har-schema, with and without fields of our own.
// Arguments of `node -e`: files. Prints how many entries they have.
const fs = require("fs"), zlib = require("zlib"), path = require("path");
const modules = path.join(process.env.NODE_MODULES, "/");
const Ajv = require(modules + "ajv"), schemas = require(modules + "har-schema");
const ajv = new Ajv({ allErrors: true });
ajv.addMetaSchema(require(modules + "ajv/lib/refs/json-schema-draft-06.json"));
ajv.addSchema(Object.values(schemas));
const valid = ajv.getSchema("har.json#");

function bare(value) {
  if (Array.isArray(value)) return value.map(bare);
  if (value === null || typeof value !== "object") return value;
  const kept = Object.entries(value).filter(([name]) => !name.startsWith("_"));
  return Object.fromEntries(kept.map(([name, inner]) => [name, bare(inner)]));
}

let entries = 0;
// With `node -e` the first argument is the first file.
for (const file of process.argv.slice(1)) {
  let bytes = fs.readFileSync(file);
  if (file.endsWith(".gz")) bytes = zlib.gunzipSync(bytes);
  if (file.endsWith(".zst")) bytes = zlib.zstdDecompressSync(bytes);
  const archive = JSON.parse(bytes);
  for (const form of [archive, bare(archive)]) {
    if (!valid(form)) {
      console.error(file, JSON.stringify(valid.errors, null, 1));
      process.exit(1);
    }
  }
  entries += archive.log.entries.length;
}
console.log(entries);
