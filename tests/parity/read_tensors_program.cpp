#include <cstdio>

#include "storage/tensor_store.h"

/// read_tensors_program WEIGHTS OUTPUT: copies every tensor of a weight file, as the program reads it, into a
/// safetensors file that the reference readers understand.
int main(int argc, char** argv) {
  if (argc != 3) return 64;
  try {
    surgery::save_tensors(argv[2], surgery::TensorStore::open_file(argv[1]).all());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 65;
  }
  return 0;
}
