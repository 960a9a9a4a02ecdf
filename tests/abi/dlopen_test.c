/* A C host that knows think/api.h and dlopen(), nothing else: dlopen_test LIBRARY */
#include "think/api.h"

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(int right, const char *what, int line) {
  if (right) return;
  fprintf(stderr, "dlopen_test.c:%d: %s\n", line, what);
  exit(1);
}
#define CHECK(condition) check((condition) != 0, #condition, __LINE__)

/* Names in the order of the table, to look each entry up by itself as well. */
static const char *const names[] = {
#define THINK_FUNCTION(name, since) #name,
#include "../../libthink/abi/functions.def"
#undef THINK_FUNCTION
};
#define NAMES (sizeof names / sizeof names[0])

/* One query over two tokens with equal keys: the output is the mean of the two values, the LSE is log(2) + logit. */
static void attend_once(const think_api *api) {
  think_error error;
  think_context *context = NULL;
  think_plan *plan = NULL;
  think_problem problem;
  think_segment segment;
  think_tensor query, output;
  think_launch launch;
  float query_data[8] = {1, 0, 0, 0, 0, 0, 0, 0}, output_data[8] = {0}, lse = 0;
  float key[16] = {0}, value[16];
  int32_t length = 2;
  int64_t bytes = -1, alignment = -1;
  int channel;
  void *workspace = NULL;
  key[0] = key[8] = 3;
  for (channel = 0; channel < 8; ++channel) {
    value[channel] = (float)channel;
    value[8 + channel] = (float)(channel + 2);
  }
  api->error_init(&error, (uint32_t)sizeof error);
  CHECK(api->context_create(NULL, &context, &error) == THINK_OK);
  api->problem_init(&problem, (uint32_t)sizeof problem);
  problem.cache_dtype = THINK_F32;
  problem.query_heads = problem.kv_heads = 1;
  problem.key_channels = 8;
  CHECK(api->plan_create(context, &problem, &plan, &error) == THINK_OK);
  api->context_destroy(context);
  api->tensor_init(&query, (uint32_t)sizeof query);
  query.data = query_data;
  query.dtype = THINK_F32;
  query.extent[0] = query.extent[1] = query.extent[2] = 1;
  query.extent[3] = query.stride[0] = query.stride[1] = query.stride[2] = 8;
  query.stride[3] = 1;
  output = query;
  output.data = output_data;
  api->segment_init(&segment, (uint32_t)sizeof segment);
  segment.key_dtype = segment.value_dtype = THINK_F32;
  segment.key = key;
  segment.value = value;
  segment.key_stride[0] = segment.key_stride[1] = segment.value_stride[0] = segment.value_stride[1] = sizeof key;
  segment.lengths = &length;
  CHECK(api->workspace_size(plan, THINK_STAGE_ATTEND, NULL, &bytes, &alignment, &error) == THINK_OK);
  CHECK(bytes >= 0 && alignment == 64);
  if (bytes > 0) {
    workspace = aligned_alloc(64, (size_t)(bytes + 63) / 64 * 64);
    CHECK(workspace != NULL);
    memset(workspace, 0, (size_t)bytes);
  }
  api->launch_init(&launch, (uint32_t)sizeof launch);
  launch.workspace = workspace;
  launch.workspace_bytes = bytes;
  CHECK(api->attend(plan, &query, NULL, &segment, 1, NULL, &output, &lse, &launch, &error) == THINK_OK);
  for (channel = 0; channel < 8; ++channel) CHECK(fabsf(output_data[channel] - (float)(channel + 1)) < 1e-5f);
  CHECK(fabsf(lse - (logf(2) + 3 / sqrtf(8))) < 1e-5f);
  CHECK(api->attend(plan, &query, NULL, &segment, 0, NULL, &output, &lse, &launch, &error) == THINK_E_ARGUMENT);
  CHECK(error.argument == 5 && strstr(error.message, "segment_count") != NULL);
  free(workspace);
  api->plan_destroy(plan);
}

int main(int argc, char **argv) {
  void *library;
  think_get_api_function get_api;
  const think_api *api;
  void *symbol;
  size_t at;
  uint32_t major;
  CHECK(argc == 2);
  library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (!library) fprintf(stderr, "%s\n", dlerror());
  CHECK(library != NULL);
  symbol = dlsym(library, "think_get_api");
  CHECK(symbol != NULL);
  memcpy(&get_api, &symbol, sizeof get_api); /* ISO C has no cast from object to function pointers */

  api = get_api(THINK_ABI_MAJOR, (uint32_t)sizeof(think_api));
  CHECK(api != NULL);
  CHECK(api->struct_size >= sizeof(think_api) && api->abi_major == THINK_ABI_MAJOR);
  for (major = 0; major < 4; ++major) {
    if (major != THINK_ABI_MAJOR) CHECK(get_api(major, (uint32_t)sizeof(think_api)) == NULL);
  }
  CHECK(get_api(UINT32_MAX, (uint32_t)sizeof(think_api)) == NULL);
  /* callers that no version can have been */
  CHECK(get_api(THINK_ABI_MAJOR, 0) == NULL);
  CHECK(get_api(THINK_ABI_MAJOR, 8) == NULL);
  CHECK(get_api(THINK_ABI_MAJOR, (uint32_t)(offsetof(think_api, tensor_from_dlpack))) == NULL);
  /* the first version's caller, and callers of the future, who see in struct_size what is missing */
  CHECK(get_api(THINK_ABI_MAJOR, (uint32_t)(offsetof(think_api, tensor_from_dlpack) + sizeof api->tensor_from_dlpack)) == api);
  CHECK(get_api(THINK_ABI_MAJOR, api->struct_size + 80) == api);
  CHECK(get_api(THINK_ABI_MAJOR, UINT32_MAX) == api);
  CHECK(THINK_API_HAS(api, version) && THINK_API_HAS(api, tensor_from_dlpack));

  CHECK(api->struct_size == 8 + 8 * NAMES);
  for (at = 0; at < NAMES; ++at) {
    void *entry;
    memcpy(&entry, (const char *)api + 8 + 8 * at, sizeof entry);
    symbol = dlsym(library, names[at]);
    if (entry != symbol || !entry) fprintf(stderr, "entry %s is not the exported function\n", names[at]);
    CHECK(entry == symbol && entry != NULL);
  }
  CHECK(dlsym(library, "_ZTVN10__cxxabiv117__class_type_infoE") == NULL || dlsym(RTLD_DEFAULT, "think_get_api") == NULL);

  CHECK(api->version() == THINK_VERSION_MAJOR * 10000 + THINK_VERSION_MINOR * 100 + THINK_VERSION_PATCH);
  CHECK(api->abi_version() == THINK_ABI_MAJOR);
  CHECK(strcmp(api->dtype_name(THINK_BF16), "bf16") == 0 && api->dtype_bytes(THINK_F16) == 2);
  CHECK(api->kept_channels(128, 0.4) == 77);
  attend_once(api);
  CHECK(dlclose(library) == 0);
  /* linked with -z nodelete: threads of the library, or a plan that somebody still holds, never lose their code */
  CHECK(dlopen(argv[1], RTLD_NOW | RTLD_NOLOAD) != NULL);
  attend_once(api);
  puts("the table works");
  return 0;
}
