// Loads a directory with transformers.js, and prints vectors and ids of texts as JSON. `make interop` has its packages.
//
//   node interop_probe.mjs NODE_MODULES DIRECTORY DTYPE TEXT...
import { createRequire } from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const [modules, directory, dtype, ...texts] = process.argv.slice(2);
const entry = createRequire(path.join(path.resolve(modules), 'x.js')).resolve('@huggingface/transformers');
const { AutoModel, AutoTokenizer, env } = await import(pathToFileURL(entry));
env.allowRemoteModels = false;
env.localModelPath = path.dirname(path.resolve(directory));
const name = path.basename(directory);
const tokenizer = await AutoTokenizer.from_pretrained(name);
const model = await AutoModel.from_pretrained(name, { dtype });
const inputs = await tokenizer(texts, { padding: true });
const outputs = await model(inputs);
const numbers = (tensor) => ({ dims: tensor.dims, data: Array.from(tensor.data, Number) });
const named = (tensors) => Object.fromEntries(Object.entries(tensors).map(([key, value]) => [key, numbers(value)]));
console.log(JSON.stringify({ inputs: named(inputs), outputs: named(outputs) }));
