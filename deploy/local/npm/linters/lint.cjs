// Prints what @asyncapi/parser and Redocly find: node lint.cjs asyncapi.yaml openapi.json
// NODE_PATH says where they are installed. Spectral has a command of its own.
"use strict";

const { readFileSync } = require("node:fs");
const { join } = require("node:path");
const { Parser } = require("@asyncapi/parser");
const { lint, loadConfig } = require("@redocly/openapi-core");

// Errors and warnings; what is below is advice, such as to use the latest version of AsyncAPI.
const WARNING = 1;

async function parse(file) {
  const { diagnostics } = await new Parser().parse(readFileSync(file, "utf8"), { source: file });
  const found = diagnostics.filter((each) => each.severity <= WARNING);
  return found.map((each) => `${file} ${each.path.join("/")}: ${each.code}: ${each.message}`);
}

async function redocly(file) {
  const config = await loadConfig({ configPath: join(__dirname, "redocly.yaml") });
  const found = await lint({ ref: file, config });
  return found.map((each) => `${file} ${each.location[0].pointer}: ${each.ruleId}: ${each.message}`);
}

async function main(asyncapi, openapi) {
  const found = [...(await parse(asyncapi)), ...(await redocly(asyncapi)), ...(await redocly(openapi))];
  found.forEach((each) => console.log(each));
}

main(process.argv[2], process.argv[3]);
