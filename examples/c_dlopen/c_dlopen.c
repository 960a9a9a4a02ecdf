/* A host that works without libthink, and faster with it: it looks for the library when it starts, knows it only through think_get_api(), and otherwise says
 * why not and computes attention in plain loops.
 *
 *   c_dlopen [LIBRARY]        default: libthink.so.1, wherever the loader finds it */
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <think/api.h>

enum { HEADS = 4, TOKENS = 300, CHANNELS = 64 };
static float query[HEADS][CHANNELS], key[HEADS][TOKENS][CHANNELS], value[HEADS][TOKENS][CHANNELS], output[HEADS][CHANNELS];

/* The table, or NULL and why. A library that is older than these headers has a shorter table: whatever came after the first version is asked for. */
static const think_api *find_library(const char *name, char *why, size_t size) {
  void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL), *symbol;
  think_get_api_function get_api;
  const think_api *api;
  if (!library) return snprintf(why, size, "%s", dlerror()), NULL;
  symbol = dlsym(library, "think_get_api");
  if (!symbol) return snprintf(why, size, "%s has no think_get_api", name), NULL;
  memcpy(&get_api, &symbol, sizeof get_api);
  api = get_api(THINK_ABI_MAJOR, (uint32_t)sizeof *api);
  if (!api) return snprintf(why, size, "%s is not of ABI generation %d", name, THINK_ABI_MAJOR), NULL;
  if (!THINK_API_HAS(api, attend)) return snprintf(why, size, "%s has no think_attend", name), NULL;
  return api;
}

static think_tensor rows(const think_api *api, void *data) {
  think_tensor tensor;
  api->tensor_init(&tensor, (uint32_t)sizeof tensor);
  tensor.data = data;
  tensor.dtype = THINK_F32;
  tensor.extent[0] = tensor.extent[2] = tensor.stride[3] = 1;
  tensor.extent[1] = HEADS;
  tensor.extent[3] = tensor.stride[1] = tensor.stride[2] = CHANNELS;
  return tensor;
}

static think_status attend_with(const think_api *api, think_error *error) {
  static const int32_t length = TOKENS;
  think_context *context = NULL;
  think_plan *plan = NULL;
  think_problem problem;
  think_segment segment;
  think_launch launch;
  think_status status;
  const think_tensor from = rows(api, query), to = rows(api, output);
  api->problem_init(&problem, (uint32_t)sizeof problem);
  api->segment_init(&segment, (uint32_t)sizeof segment);
  api->launch_init(&launch, (uint32_t)sizeof launch);
  problem.query_heads = problem.kv_heads = HEADS;
  problem.key_channels = CHANNELS;
  problem.cache_dtype = segment.key_dtype = segment.value_dtype = THINK_F32;
  segment.key = key;
  segment.value = value;
  segment.key_stride[1] = segment.value_stride[1] = (int64_t)sizeof key[0];
  segment.lengths = &length;
  status = api->context_create(NULL, &context, error);
  if (status == THINK_OK) status = api->plan_create(context, &problem, &plan, error);
  if (status == THINK_OK) status = api->workspace_size(plan, THINK_STAGE_ATTEND, NULL, &launch.workspace_bytes, NULL, error);
  if (status == THINK_OK) {
    launch.workspace = aligned_alloc(64, (size_t)(launch.workspace_bytes + 63) / 64 * 64);
    if (launch.workspace) memset(launch.workspace, 0, (size_t)launch.workspace_bytes);
    status = api->attend(plan, &from, NULL, &segment, 1, NULL, &to, NULL, &launch, error);
    free(launch.workspace);
  }
  api->plan_destroy(plan);
  api->context_destroy(context);
  return status;
}

static void attend_alone(void) {
  int h, t, c;
  for (h = 0; h < HEADS; ++h) {
    double weight[TOKENS], most = -INFINITY, total = 0, sum;
    for (t = 0; t < TOKENS; ++t) {
      for (sum = 0, c = 0; c < CHANNELS; ++c) sum += (double)query[h][c] * (double)key[h][t][c];
      weight[t] = sum / sqrt(CHANNELS);
      most = fmax(most, weight[t]);
    }
    for (t = 0; t < TOKENS; ++t) total += weight[t] = exp(weight[t] - most);
    for (c = 0; c < CHANNELS; ++c) {
      for (sum = 0, t = 0; t < TOKENS; ++t) sum += weight[t] * (double)value[h][t][c];
      output[h][c] = (float)(sum / total);
    }
  }
}

static void fill(float *numbers, int count) {
  static uint32_t state = 1;
  for (; count > 0; --count) {
    state = state * 1664525u + 1013904223u;
    *numbers++ = (float)(state >> 8) / 8388608.0f - 1.0f;
  }
}

int main(int argc, char **argv) {
  char why[512];
  const think_api *api = find_library(argc > 1 ? argv[1] : "libthink.so.1", why, sizeof why);
  fill(query[0], HEADS * CHANNELS);
  fill(key[0][0], HEADS * TOKENS * CHANNELS);
  fill(value[0][0], HEADS * TOKENS * CHANNELS);
  if (api) {
    think_error error;
    api->error_init(&error, (uint32_t)sizeof error);
    if (attend_with(api, &error) != THINK_OK) return fprintf(stderr, "%s\n", error.message), 1;
    printf("attention by libthink %s\n", api->version_string());
  } else {
    attend_alone();
    printf("libthink is not here (%s): attention in plain loops\n", why);
  }
  printf("%.5f %.5f %.5f %.5f\n", output[0][0], output[1][1], output[2][2], output[3][3]);
  return 0;
}
