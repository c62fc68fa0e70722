"""How Gaia builds a Python pipeline: `python setup.py sdist`, then `pip install` of the result."""

from setuptools import setup

setup(
    name="gaia-python-example",
    version="1.0.0",
    description="An example pipeline for Gaia",
    py_modules=["pipeline"],
    # The SDK is Gaia's own, as published. It forgot to declare `six`, and its generated code is too
    # old for newer versions of protobuf.
    install_requires=["gaiasdk", "six", "protobuf<4"],
)
