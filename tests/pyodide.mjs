// Run pytest in Pyodide, CPython for WebAssembly, on the files and with the options given.
// From the root of the project: node tests/pyodide.mjs FOLDER [ARGUMENT...], where FOLDER holds
// node_modules with pyodide, and site-packages with pytest.

import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, ...args] = process.argv.slice(2);
const program = resolve(folder, "node_modules/pyodide/pyodide.mjs");
const { loadPyodide } = await import(pathToFileURL(program));
const pyodide = await loadPyodide();
pyodide.mountNodeFS("/project", process.cwd());
pyodide.mountNodeFS("/site-packages", resolve(folder, "site-packages"));
pyodide.globals.set("args", pyodide.toPy(args));
pyodide.globals.set("patience", process.env.WSMINI_TEST_PATIENCE ?? "1");
process.exitCode = pyodide.runPython(`
import os, sys
sys.dont_write_bytecode = True
sys.path.insert(0, "/site-packages")
os.chdir("/project")
os.environ["WSMINI_TEST_PATIENCE"] = patience
import pytest
int(pytest.main(["-p", "no:cacheprovider", *args]))
`);
