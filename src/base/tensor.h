#pragma once
// LibTorch's tensors and autograd, without its modules, optimizers and data loaders: half as much for every
// file to read as torch/torch.h.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
