// Run slither over src/: `node analyse.mjs [SLITHER OPTION...]`. It is told the syntax trees that npm's compiler makes, in
// crytic-compile's own export format, so that no other compiler is needed.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import solc from 'solc';

const here = dirname(fileURLToPath(import.meta.url));
const names = readdirSync(join(here, 'src')).filter((name) => name.endsWith('.sol')).sort();
const input = {
  language: 'Solidity',
  sources: Object.fromEntries(names.map((name) => [`src/${name}`, { content: readFileSync(join(here, 'src', name), 'utf8') }])),
  settings: { evmVersion: 'prague', outputSelection: { '*': { '': ['ast'] } } },
};
const readImport = (path) => ({ contents: readFileSync(join(here, 'node_modules', path), 'utf8') });
const output = JSON.parse(solc.compile(JSON.stringify(input), { import: readImport }));
const errors = (output.errors ?? []).filter(({ severity }) => severity === 'error');
for (const error of errors) console.error(error.formattedMessage);
if (errors.length) process.exit(1);

const filenames = Object.keys(output.sources).map((used) => {
  const relative = used in input.sources ? used : join('node_modules', used);
  return { absolute: join(here, relative), relative, short: relative, used };
});
const exported = {
  compilation_units: {
    src: {
      compiler: { compiler: 'solc', version: solc.version().split('+')[0], optimized: true },
      source_units: Object.fromEntries(filenames.map(({ relative, used }) => [relative, { ast: output.sources[used].ast }])),
      filenames,
    },
  },
  working_dir: here,
  type: 1, // solc
  crytic_version: '0.0.2',
};

const directory = mkdtempSync(join(tmpdir(), 'slither-'));
const target = join(directory, 'src_export.json');
writeFileSync(target, JSON.stringify(exported));
const options = [target, '--filter-paths', 'node_modules', ...process.argv.slice(2)];
const { error, status } = spawnSync('slither', options, { cwd: here, stdio: 'inherit' });
rmSync(directory, { recursive: true });
if (error) console.error(`cannot run slither (pip install slither-analyzer): ${error.message}`);
process.exit(status ?? 1);
