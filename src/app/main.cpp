#include <fmt/format.h>

int main() {
  fmt::print("surgery\n");
  return 0;
}
