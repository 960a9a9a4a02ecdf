#include "think/tensor.h"

#include "libthink/core/plan.h"
#include "libthink/core/structs.h"

extern "C" {

void think_tensor_init(think_tensor *tensor, uint32_t struct_size) {
  const think_tensor initial = THINK_TENSOR_INIT;
  think::init_struct(tensor, struct_size, initial);
}

void think_batch_init(think_batch *batch, uint32_t struct_size) {
  const think_batch initial = THINK_BATCH_INIT;
  think::init_struct(batch, struct_size, initial);
}

int32_t think_dtype_bytes(think_dtype dtype) { return think::is_float_dtype(dtype) ? think::dtype_bytes(dtype) : 0; }

const char *think_dtype_name(think_dtype dtype) { return think::dtype_name(dtype); }

}  // extern "C"
