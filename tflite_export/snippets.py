"""Code for apps that picks a file and a signature by the tasks that run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any


def kotlin(manifest: Mapping[str, Any]) -> str:
    """Kotlin for Android, with the interpreter of LiteRT or TensorFlow Lite."""
    name, tensor = _input(manifest)
    table = ",\n".join(
        f"    setOf({_names(tasks, '$')}) to Signature({_quoted(file, '$')}, {_quoted(key, '$')})"
        for tasks, file, key in _signatures(manifest)
    )
    outputs = "\n".join(
        f"    {_quoted(task, '$')} -> {_bytes(output)}"
        for task, output in _outputs(manifest).items()
    )
    return f"""\
import java.nio.ByteBuffer
import java.nio.ByteOrder
import org.tensorflow.lite.Interpreter

data class Signature(val file: String, val name: String)

val signatures = mapOf(
{table},
)

fun outputBytes(task: String) = when (task) {{
{outputs}
    else -> error("unknown task $task")
}}

/** Runs the tasks on one input: {_bytes(tensor)} bytes of {tensor["dtype"]}. */
fun run(interpreter: Interpreter, tasks: Set<String>, input: ByteBuffer): Map<String, ByteBuffer> {{
    val outputs = tasks.associateWith {{
        ByteBuffer.allocateDirect(outputBytes(it)).order(ByteOrder.nativeOrder())
    }}
    val signature = signatures.getValue(tasks)
    interpreter.runSignature(mapOf({_quoted(name, "$")} to input), outputs, signature.name)
    return outputs
}}"""


def swift(manifest: Mapping[str, Any]) -> str:
    """Swift for iOS, with TensorFlowLiteSwift."""
    name, _ = _input(manifest)
    table = ",\n".join(
        f"  [{_names(tasks)}]: ({_quoted(file)}, {_quoted(key)})"
        for tasks, file, key in _signatures(manifest)
    )
    return f"""\
import Foundation
import TensorFlowLite

let signatures: [Set<String>: (file: String, name: String)] = [
{table},
]

func run(_ interpreter: Interpreter, tasks: Set<String>, input: Data) throws -> [String: Data] {{
  guard let signature = signatures[tasks] else {{ fatalError("no signature for \\(tasks)") }}
  let runner = try interpreter.signatureRunner(with: signature.name)
  try runner.allocateTensors()
  try runner.copy(input, toInputNamed: {_quoted(name)})
  try runner.invoke()
  return try tasks.reduce(into: [:]) {{ $0[$1] = try runner.output(named: $1).data }}
}}"""


def cpp(manifest: Mapping[str, Any]) -> str:
    """C++ with LiteRT's interpreter."""
    name, _ = _input(manifest)
    table = ",\n".join(
        f"    {{{{{_names(tasks)}}}, {{{_quoted(file)}, {_quoted(key)}}}}}"
        for tasks, file, key in _signatures(manifest)
    )
    return f"""\
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "tensorflow/lite/interpreter.h"
#include "tensorflow/lite/signature_runner.h"

struct Signature {{
  std::string file;
  std::string name;
}};

const std::map<std::set<std::string>, Signature> kSignatures = {{
{table},
}};

// Runs the tasks; returns the bytes of their outputs, or nothing where that fails.
std::map<std::string, std::vector<char>> Run(tflite::Interpreter& interpreter,
                                             const std::set<std::string>& tasks,
                                             const std::vector<char>& input) {{
  auto* runner = interpreter.GetSignatureRunner(kSignatures.at(tasks).name.c_str());
  if (runner == nullptr || runner->AllocateTensors() != kTfLiteOk) return {{}};
  std::memcpy(runner->input_tensor({_quoted(name)})->data.raw, input.data(), input.size());
  if (runner->Invoke() != kTfLiteOk) return {{}};
  std::map<std::string, std::vector<char>> outputs;
  for (const std::string& task : tasks) {{
    const TfLiteTensor* tensor = runner->output_tensor(task.c_str());
    outputs[task].assign(tensor->data.raw, tensor->data.raw + tensor->bytes);
  }}
  return outputs;
}}"""


# What Markdown calls a language, and its snippet, by the language's name.
SNIPPETS: dict[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
    "Kotlin": ("kotlin", kotlin),
    "Swift": ("swift", swift),
    "C++": ("cpp", cpp),
}


def _signatures(manifest: Mapping[str, Any]) -> Iterator[tuple[Sequence[str], str, str]]:
    """Tasks, file and signature of every combination: in the file that holds the most of them."""
    files = sorted(manifest["files"], key=lambda entry: len(entry["signatures"]), reverse=True)
    seen = set()
    for entry in files:
        for signature in entry["signatures"]:
            if signature["name"] not in seen:
                seen.add(signature["name"])
                yield signature["tasks"], entry["file"], signature["name"]


def _input(manifest: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    (found,) = manifest["files"][0]["signatures"][0]["inputs"].items()
    return found


def _outputs(manifest: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {
        task: tensor
        for entry in manifest["files"]
        for signature in entry["signatures"]
        for task, tensor in signature["outputs"].items()
    }


def _bytes(tensor: Mapping[str, Any]) -> int:
    bits = int("".join(filter(str.isdigit, tensor["dtype"])))
    return math.prod(tensor["shape"]) * bits // 8


def _names(tasks: Sequence[str], escaped: str = "") -> str:
    return ", ".join(_quoted(task, escaped) for task in tasks)


def _quoted(name: str, escaped: str = "") -> str:
    """A string literal; JSON's escapes are those of the three languages."""
    literal = json.dumps(name, ensure_ascii=False)
    for character in escaped:
        literal = literal.replace(character, "\\" + character)
    return literal
