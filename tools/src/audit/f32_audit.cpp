// The float kernels of every instruction set against double precision: elementwise functions and rows,
// products, attention (one file each).
#include "audit/areas.hpp"
#include "audit/f32.hpp"

namespace dirigo::tools {

std::vector<AuditTask> f32_audit(std::span<const Isa> isas) {
  std::vector<FloatTable> tables;
  for (const Isa isa : isas) {
    const Context context({.threads = 1, .isa = isa});
    tables.push_back({std::string(isa_name(isa)), context.kernels<float>()});
  }
  std::vector<AuditTask> tasks;
  for (const auto& part : {f32_elementwise_tasks(tables), f32_row_tasks(tables), f32_product_tasks(tables),
                           f32_attention_tasks(tables)}) {
    tasks.insert(tasks.end(), part.begin(), part.end());
  }
  return tasks;
}

}  // namespace dirigo::tools
