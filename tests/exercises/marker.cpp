// usage: marker OP: checks every case of one operation, value and gradient; exit code 1 if a case fails.
// Linked with the file that an exercise changes, in place of the library's: what the audit of an operation
// says, without building the whole command for every exercise.
#include <cstdio>
#include <cstring>

#include "dirigo/autograd/gradient_check.hpp"

int main(int argc, char** argv) {
  using namespace dirigo;
  const Context context({.threads = 1});
  int cases = 0, failed = 0;
  for (const OpEntry& entry : op_list()) {
    if (argc != 2 || std::strcmp(entry.name, argv[1]) != 0) continue;
    for (const OpCase& op_case : entry.cases(context)) {
      const GradientCheck result = check(context, op_case);
      ++cases;
      if (result.ok) continue;
      ++failed;
      std::printf("%s, %s: %s\n", entry.name, op_case.name.c_str(), result.where.c_str());
    }
  }
  std::printf("%d cases, %d failed\n", cases, failed);
  return cases == 0 ? 2 : failed > 0 ? 1 : 0;
}
