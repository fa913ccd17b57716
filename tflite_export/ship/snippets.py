"""Code for apps that picks a file and a signature by the tasks that run."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any


def kotlin(manifest: Mapping[str, Any]) -> str:
    """Kotlin for Android, with the interpreter of LiteRT or TensorFlow Lite."""
    named = _are_several(manifest)
    table = ",\n".join(
        f"    setOf({_names(found.tasks, '$')}) to Signature({_quoted(found.file, '$')}, "
        f"{_quoted(found.name, '$')}"
        + (f", listOf({_names(found.outputs, '$')}))" if named else ")")
        for found in _signatures(manifest)
    )
    outputs = "\n".join(
        f"    {_quoted(name, '$')} -> {_bytes(output)}"
        for name, output in _outputs(manifest).items()
    )
    inputs = _inputs(manifest)
    about = ", ".join(f"{name}: {_bytes(t)} bytes of {t['dtype']}" for name, t in inputs.items())
    if len(inputs) == 1:
        ((name, tensor),) = inputs.items()
        about = f"Runs the tasks on one input: {_bytes(tensor)} bytes of {tensor['dtype']}."
        argument, given = "input: ByteBuffer", f"mapOf({_quoted(name, '$')} to input)"
    else:
        about = f"Runs the tasks on the inputs that they need, by name. {about}."
        argument, given = "inputs: Map<String, ByteBuffer>", "inputs"
    of_signature = ", val outputs: List<String>" if named else ""
    names = "signatures.getValue(tasks).outputs" if named else "tasks"
    return f"""\
import java.nio.ByteBuffer
import java.nio.ByteOrder
import org.tensorflow.lite.Interpreter

data class Signature(val file: String, val name: String{of_signature})

val signatures = mapOf(
{table},
)

fun outputBytes(output: String) = when (output) {{
{outputs}
    else -> error("unknown output $output")
}}

/** {about} */
fun run(
    interpreter: Interpreter, tasks: Set<String>, {argument},
): Map<String, ByteBuffer> {{
    val outputs = {names}.associateWith {{
        ByteBuffer.allocateDirect(outputBytes(it)).order(ByteOrder.nativeOrder())
    }}
    val signature = signatures.getValue(tasks)
    interpreter.runSignature({given}, outputs, signature.name)
    return outputs
}}"""


def swift(manifest: Mapping[str, Any]) -> str:
    """Swift for iOS, with TensorFlowLiteSwift."""
    named = _are_several(manifest)
    table = ",\n".join(
        f"  [{_names(found.tasks)}]: ({_quoted(found.file)}, {_quoted(found.name)}"
        + (f", [{_names(found.outputs)}])" if named else ")")
        for found in _signatures(manifest)
    )
    inputs = list(_inputs(manifest))
    if len(inputs) == 1:
        argument = "input: Data"
        copied = f"try runner.copy(input, toInputNamed: {_quoted(inputs[0])})"
    else:
        argument = "inputs: [String: Data]"
        copied = "for (name, data) in inputs { try runner.copy(data, toInputNamed: name) }"
    of_signature = ", outputs: [String]" if named else ""
    names = "signature.outputs" if named else "tasks"
    return f"""\
import Foundation
import TensorFlowLite

let signatures: [Set<String>: (file: String, name: String{of_signature})] = [
{table},
]

func run(_ interpreter: Interpreter, tasks: Set<String>, {argument}) throws -> [String: Data] {{
  guard let signature = signatures[tasks] else {{ fatalError("no signature for \\(tasks)") }}
  let runner = try interpreter.signatureRunner(with: signature.name)
  try runner.allocateTensors()
  {copied}
  try runner.invoke()
  return try {names}.reduce(into: [:]) {{ $0[$1] = try runner.output(named: $1).data }}
}}"""


def cpp(manifest: Mapping[str, Any]) -> str:
    """C++ with LiteRT's interpreter."""
    named = _are_several(manifest)
    table = ",\n".join(
        f"    {{{{{_names(found.tasks)}}}, {{{_quoted(found.file)}, {_quoted(found.name)}"
        + (f", {{{_names(found.outputs)}}}}}}}" if named else "}}")
        for found in _signatures(manifest)
    )
    inputs = list(_inputs(manifest))
    if len(inputs) == 1:
        argument = "const std::vector<char>& input"
        copied = (
            f"std::memcpy(runner->input_tensor({_quoted(inputs[0])})->data.raw, input.data(), "
            "input.size());"
        )
    else:
        argument = "const std::map<std::string, std::vector<char>>& inputs"
        copied = (
            "for (const auto& [name, input] : inputs) {\n"
            "    std::memcpy(runner->input_tensor(name.c_str())->data.raw, input.data(),\n"
            "                input.size());\n  }"
        )
    of_signature = "\n  std::vector<std::string> outputs;" if named else ""
    names = "kSignatures.at(tasks).outputs" if named else "tasks"
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
  std::string name;{of_signature}
}};

const std::map<std::set<std::string>, Signature> kSignatures = {{
{table},
}};

// Runs the tasks; returns the bytes of their outputs, or nothing where that fails.
std::map<std::string, std::vector<char>> Run(tflite::Interpreter& interpreter,
                                             const std::set<std::string>& tasks,
                                             {argument}) {{
  auto* runner = interpreter.GetSignatureRunner(kSignatures.at(tasks).name.c_str());
  if (runner == nullptr || runner->AllocateTensors() != kTfLiteOk) return {{}};
  {copied}
  if (runner->Invoke() != kTfLiteOk) return {{}};
  std::map<std::string, std::vector<char>> outputs;
  for (const std::string& name : {names}) {{
    const TfLiteTensor* tensor = runner->output_tensor(name.c_str());
    outputs[name].assign(tensor->data.raw, tensor->data.raw + tensor->bytes);
  }}
  return outputs;
}}"""


# What Markdown calls a language, and its snippet, by the language's name.
SNIPPETS: dict[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
    "Kotlin": ("kotlin", kotlin),
    "Swift": ("swift", swift),
    "C++": ("cpp", cpp),
}


@dataclasses.dataclass(frozen=True)
class _Signature:
    tasks: Sequence[str]
    file: str
    name: str
    outputs: Sequence[str]


def _signatures(manifest: Mapping[str, Any]) -> Iterator[_Signature]:
    """The signature of every combination: in the file that holds the most of them."""
    files = sorted(manifest["files"], key=lambda entry: len(entry["signatures"]), reverse=True)
    seen = set()
    for entry in files:
        for signature in entry["signatures"]:
            if signature["name"] not in seen:
                seen.add(signature["name"])
                outputs = list(signature["outputs"])
                yield _Signature(signature["tasks"], entry["file"], signature["name"], outputs)


def _are_several(manifest: Mapping[str, Any]) -> bool:
    """Whether a task has several outputs, or one of another name."""
    return any(list(found.tasks) != list(found.outputs) for found in _signatures(manifest))


def _inputs(manifest: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return _tensors(manifest, "inputs")


def _outputs(manifest: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return _tensors(manifest, "outputs")


def _tensors(manifest: Mapping[str, Any], side: str) -> dict[str, Mapping[str, Any]]:
    return {
        name: tensor
        for entry in manifest["files"]
        for signature in entry["signatures"]
        for name, tensor in signature[side].items()
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
