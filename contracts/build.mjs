// Compile src/*.sol into one JSON artifact per deployable contract: `node build.mjs [DIRECTORY]`.
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import solc from 'solc';

const here = dirname(fileURLToPath(import.meta.url));
const out = process.argv[2] ?? join(here, '..', 'lattice_core', 'artifacts');
const names = readdirSync(join(here, 'src')).filter((name) => name.endsWith('.sol')).sort();

const input = {
  language: 'Solidity',
  sources: Object.fromEntries(names.map((name) => [`src/${name}`, { content: readFileSync(join(here, 'src', name), 'utf8') }])),
  settings: {
    evmVersion: 'prague',
    optimizer: { enabled: true, runs: 1_000_000 },
    viaIR: true, // the settlement loop holds more than a stack does
    metadata: { bytecodeHash: 'none', appendCBOR: false },
    outputSelection: { '*': { '*': ['abi', 'evm.bytecode.object', 'evm.deployedBytecode'] } },
  },
};
const readImport = (path) => ({ contents: readFileSync(join(here, 'node_modules', path), 'utf8') });
const output = JSON.parse(solc.compile(JSON.stringify(input), { import: readImport }));

const ours = ({ severity, sourceLocation }) => severity === 'error' || sourceLocation?.file.startsWith('src/');
const problems = (output.errors ?? []).filter(ours);
for (const problem of problems) console.error(problem.formattedMessage);
if (problems.length) process.exit(1);

mkdirSync(out, { recursive: true });
for (const source of Object.keys(input.sources)) {
  for (const [name, { abi, evm }] of Object.entries(output.contracts[source])) {
    if (!abi.some(({ type }) => type === 'function') || !evm.bytecode.object) continue; // libraries and abstract contracts
    const deployed = Buffer.from(evm.deployedBytecode.object, 'hex');
    const artifact = {
      name,
      abi,
      bytecode: evm.bytecode.object,
      deployed_sha256: createHash('sha256').update(deployed).digest('hex'), // immutables as zeros
      immutables: Object.values(evm.deployedBytecode.immutableReferences).flat().map(({ start, length }) => [start, length])
        .sort(([a], [b]) => a - b),
    };
    writeFileSync(join(out, `${name}.json`), JSON.stringify(artifact, null, 1) + '\n');
  }
}
