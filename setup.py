"""Packaging metadata of tfmot-pam: the library, the exporter and the command-line programs."""

import pathlib

import setuptools

README = pathlib.Path(__file__).parent / "README.md"

REQUIREMENTS = [
    "absl-py>=1.3",
    "ai-edge-litert>=2.1",
    "flatbuffers>=24.3.25",
    "h5py>=3.10",
    "jinja2>=3.1",
    "keras>=3.8",
    "markupsafe>=2.1",
    "matplotlib>=3.8",
    "numpy>=1.26",
    "rich>=13",
    "scipy>=1.11",
    "tensorflow>=2.18",
    "tensorflow-model-optimization>=0.8.1",
    "tf-keras>=2.18",
    "threadpoolctl>=3.1",
]

EXTRAS = {
    "ai-edge-quantizer": ["ai-edge-quantizer>=0.10"],
    "docs": ["mkdocs-material>=9.5", "mkdocstrings[python]>=0.26"],
    "notebook": ["ipykernel>=7.4", "nbclient>=0.11"],
    "test": [
        "hypothesis>=6.100",
        "mypy>=2.4",
        "packaging>=24.2",
        "pytest>=8",
        "pytest-xdist>=3.8",
        "ruff>=0.9",
        "setuptools>=77",
    ],
}

setuptools.setup(
    name="tfmot-pam",
    version="0.2.0",
    description="Merge trained Keras models into one multi-head model and deploy every "
    "combination of its tasks.",
    long_description=README.read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    packages=setuptools.find_packages(
        include=["tfmot_pam", "tfmot_pam.*", "tflite_export", "tflite_export.*"]
    ),
    package_data={
        "tfmot_pam": ["py.typed"],
        "tfmot_pam.reporting": ["page.html.jinja"],
        "tflite_export": ["py.typed"],
    },
    python_requires=">=3.10,<3.14",
    install_requires=REQUIREMENTS,
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": [
            "tflite-benchmark = tflite_export.programs.benchmark:run",
            "tflite-export = tflite_export.programs.export:run",
            "tfmot-pam = tflite_export.programs.pam:run",
        ]
    },
    keywords=["keras", "tensorflow", "multi-task learning", "model merging", "tflite"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
