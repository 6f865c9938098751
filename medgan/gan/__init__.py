"""Training generators: networks, losses, the loop, checkpoints and sampling.

`config`, `fit`, `sample` and everything below them need numpy, torch and safetensors only, so that they run on a
bare GPU machine; `train` joins them to the zones and records of the house.
"""
