/* The library is a guest in the process of somebody else: guest_test [LIBRARY], or THINK_LIBRARY. What belongs to the host is looked at before and after. */
#define _GNU_SOURCE
#include "device_host.h"
#include "think/api.h"

#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <fenv.h>
#include <float.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

extern char **environ;

static int report = 2; /* stderr itself is watched: failures go to a copy of it */

static void check(int right, const char *what, int line) {
  if (right) return;
  dprintf(report, "guest_test.c:%d: %s\n", line, what);
  _exit(1);
}
#define CHECK(condition) check((condition) != 0, #condition, __LINE__)

/* ---- the floating-point unit ---- */
typedef struct fpu {
  uint64_t control, x87;
} fpu;

static fpu read_fpu(void) {
  fpu state = {0, 0};
#if defined(__x86_64__)
  uint32_t mxcsr;
  uint16_t word;
  __asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
  __asm__ volatile("fnstcw %0" : "=m"(word));
  state.control = mxcsr & ~0x3Fu; /* without the sticky exception flags: every addition may set them */
  state.x87 = word;
#elif defined(__aarch64__)
  __asm__ volatile("mrs %0, fpcr" : "=r"(state.control));
#else
#error "how is the floating-point control word read here?"
#endif
  return state;
}

static int subnormals_work(void) {
  volatile float smallest = FLT_MIN;
  volatile float half = smallest / 2;
  volatile double tiny = DBL_MIN;
  volatile double part = tiny / 4;
  return half > 0 && half + half == smallest && part > 0;
}

/* ---- everything else that a host may care about ---- */
static int entries(const char *folder) {
  DIR *list = opendir(folder);
  int count = 0;
  CHECK(list != NULL);
  while (readdir(list) != NULL) ++count;
  closedir(list);
  return count - 2;
}

static int threads(void) { return entries("/proc/self/task"); }

/* Threads of the library run none of the host's handlers, but those of faults, which end the process where they are blocked. */
static unsigned long long blocked_signals(const char *thread) {
  char path[300], line[256];
  unsigned long long blocked = 0;
  int found = 0;
  FILE *status;
  snprintf(path, sizeof path, "/proc/self/task/%s/status", thread);
  status = fopen(path, "r");
  CHECK(status != NULL);
  while (!found && fgets(line, sizeof line, status) != NULL) found = sscanf(line, "SigBlk: %llx", &blocked) == 1;
  fclose(status);
  CHECK(found);
  return blocked;
}

static void check_masks_of_threads(void) {
#define BIT(number) (1ull << ((number) - 1))
  const unsigned long long faults = BIT(SIGSEGV) | BIT(SIGBUS) | BIT(SIGFPE) | BIT(SIGILL) | BIT(SIGTRAP);
  const unsigned long long others = BIT(SIGINT) | BIT(SIGTERM) | BIT(SIGUSR1) | BIT(SIGALRM) | BIT(SIGCHLD);
  DIR *list = opendir("/proc/self/task");
  struct dirent *entry;
  int seen = 0, tries;
  CHECK(list != NULL);
  while ((entry = readdir(list)) != NULL) {
    if (entry->d_name[0] == '.' || atoi(entry->d_name) == (int)getpid()) continue;
    /* the C library blocks everything in a thread that has not begun to run */
    for (tries = 0; tries < 5000 && (blocked_signals(entry->d_name) & faults) != 0; ++tries) usleep(1000);
    CHECK((blocked_signals(entry->d_name) & (faults | others)) == others);
    ++seen;
  }
  closedir(list);
  CHECK(seen == 2);
}

typedef struct manners {
  fpu fpu;
  int threads, files, rounding;
  struct sigaction actions[65];
  sigset_t blocked;
  char locale[256], folder[4096];
  mode_t mask;
  char *environment[512];
  size_t variables;
  char **environ_at;
} manners;

static void look(manners *now) {
  int number;
  memset(now, 0, sizeof *now);
  now->fpu = read_fpu();
  now->threads = threads();
  now->files = entries("/proc/self/fd");
  now->rounding = fegetround();
  for (number = 1; number < 65; ++number) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    if (sigaction(number, NULL, &action) == 0) {
      now->actions[number].sa_handler = action.sa_handler;
      now->actions[number].sa_flags = action.sa_flags;
    }
  }
  sigprocmask(SIG_BLOCK, NULL, &now->blocked);
  snprintf(now->locale, sizeof now->locale, "%s", setlocale(LC_ALL, NULL));
  CHECK(getcwd(now->folder, sizeof now->folder) != NULL);
  now->mask = umask(0);
  umask(now->mask);
  now->environ_at = environ;
  while (environ[now->variables] != NULL) {
    CHECK(now->variables < 512);
    now->environment[now->variables] = environ[now->variables];
    ++now->variables;
  }
}

static void unchanged(const manners *before, int line) {
  manners now;
  look(&now);
  check(memcmp(&before->fpu, &now.fpu, sizeof now.fpu) == 0, "floating-point control word changed", line);
  check(before->rounding == now.rounding, "rounding mode changed", line);
  check(subnormals_work(), "subnormal numbers no longer work", line);
  check(before->threads == now.threads, "number of threads changed", line);
  check(before->files == now.files, "number of open files changed", line);
  check(memcmp(before->actions, now.actions, sizeof now.actions) == 0, "a signal handler changed", line);
  check(memcmp(&before->blocked, &now.blocked, sizeof now.blocked) == 0, "the signal mask changed", line);
  check(strcmp(before->locale, now.locale) == 0, "the locale changed", line);
  check(strcmp(before->folder, now.folder) == 0 && before->mask == now.mask, "working directory or umask changed", line);
  check(before->variables == now.variables && before->environ_at == now.environ_at, "the environment changed", line);
  check(memcmp(before->environment, now.environment, sizeof now.environment) == 0, "an environment variable changed", line);
}
#define UNCHANGED(before) unchanged(&(before), __LINE__)

/* Backends of other devices, and their drivers, are nobody's business until somebody asks for such a device. */
static int backend_is_loaded(void) {
  FILE *maps = fopen("/proc/self/maps", "r");
  char line[4096];
  int found = 0;
  CHECK(maps != NULL);
  while (fgets(line, (int)sizeof line, maps) != NULL) found |= strstr(line, "libthink_cuda") != NULL || strstr(line, "libcuda") != NULL;
  fclose(maps);
  return found;
}

/* ---- something for the library to do ---- */
enum { HEADS = 2, CHANNELS = 64, ROWS = 512 };
static float query_data[HEADS * CHANNELS], output_data[HEADS * CHANNELS], keys[HEADS * ROWS * CHANNELS], values[HEADS * ROWS * CHANNELS];
static int32_t length = ROWS;

static void fill_tensor(const think_api *api, think_tensor *tensor, float *data) {
  api->tensor_init(tensor, (uint32_t)sizeof *tensor);
  tensor->data = data;
  tensor->dtype = THINK_F32;
  tensor->extent[0] = tensor->extent[2] = tensor->stride[3] = 1;
  tensor->extent[1] = HEADS;
  tensor->extent[3] = tensor->stride[1] = tensor->stride[2] = CHANNELS;
  tensor->stride[0] = HEADS * CHANNELS;
}

static think_plan *make_plan(const think_api *api, const think_context *context) {
  think_problem problem;
  think_plan *plan = NULL;
  api->problem_init(&problem, (uint32_t)sizeof problem);
  problem.query_heads = problem.kv_heads = HEADS;
  problem.key_channels = CHANNELS;
  problem.cache_dtype = THINK_F32;
  CHECK(api->plan_create(context, &problem, &plan, NULL) == THINK_OK);
  return plan;
}

static void attend(const think_api *api, const think_plan *plan) {
  think_tensor query, output;
  think_segment segment;
  think_launch launch;
  think_error error;
  int64_t bytes = 0;
  api->error_init(&error, (uint32_t)sizeof error);
  fill_tensor(api, &query, query_data);
  fill_tensor(api, &output, output_data);
  api->segment_init(&segment, (uint32_t)sizeof segment);
  segment.key_dtype = segment.value_dtype = THINK_F32;
  segment.key = keys;
  segment.value = values;
  segment.key_stride[1] = segment.value_stride[1] = (int64_t)sizeof(float) * ROWS * CHANNELS;
  segment.lengths = &length;
  api->launch_init(&launch, (uint32_t)sizeof launch);
  CHECK(api->workspace_size(plan, THINK_STAGE_ATTEND, NULL, &bytes, NULL, NULL) == THINK_OK);
  launch.workspace_bytes = bytes;
  launch.workspace = bytes > 0 ? aligned_alloc(64, (size_t)(bytes + 63) / 64 * 64) : NULL;
  if (bytes > 0) memset(launch.workspace, 0, (size_t)bytes);
  CHECK(api->attend(plan, &query, NULL, &segment, 1, NULL, &output, NULL, &launch, &error) == THINK_OK);
  CHECK(api->attend(plan, &query, NULL, &segment, -1, NULL, &output, NULL, &launch, &error) == THINK_E_ARGUMENT);
  free(launch.workspace);
}

/* The same through the managed cache: a token. */
static void attend_in_cache(const think_api *api, const think_plan *plan) {
  const int32_t sequence = 0, one = 1;
  think_tensor query, key, value, output;
  think_cache *cache = NULL;
  think_launch launch;
  int64_t bytes = 0;
  fill_tensor(api, &query, query_data);
  fill_tensor(api, &key, keys);
  fill_tensor(api, &value, values);
  fill_tensor(api, &output, output_data);
  CHECK(api->cache_create(plan, NULL, &cache, NULL) == THINK_OK);
  api->launch_init(&launch, (uint32_t)sizeof launch);
  CHECK(api->cache_workspace_size(cache, &bytes, NULL, NULL) == THINK_OK);
  launch.workspace_bytes = bytes;
  launch.workspace = aligned_alloc(64, (size_t)(bytes + 64) / 64 * 64);
  CHECK(launch.workspace != NULL);
  memset(launch.workspace, 0, (size_t)bytes);
  CHECK(api->cache_step(cache, &sequence, &one, 1, &launch, NULL) == THINK_OK);
  CHECK(api->cache_append(cache, 0, &query, &key, &value, &launch, NULL) == THINK_OK);
  CHECK(api->cache_attend(cache, 0, &query, NULL, &output, NULL, &launch, NULL) == THINK_OK);
  api->cache_destroy(cache);
  free(launch.workspace);
}

#define DEVICE_UNCHANGED() check(device_host_unchanged(), "a call changed the current context of the device", __LINE__)

/* Where there is a device: the thread's contexts. Threads and open files are the driver's affair from here on. NULL, or why this was left out. */
static const char *on_a_device(const think_api *api) {
  static think_error error;
  const char *missing = device_host_open();
  think_context_options options;
  think_context *context = NULL, *host = NULL;
  think_plan *plan, *own;
  think_launch launch;
  think_status status;
  int64_t bytes = 0;
  void *state;
  if (missing) return missing;
  api->error_init(&error, (uint32_t)sizeof error);
  api->context_options_init(&options, (uint32_t)sizeof options);
  options.device_type = THINK_DEVICE_CUDA;
  status = api->context_create(&options, &context, &error);
  DEVICE_UNCHANGED();
  if (status == THINK_E_UNSUPPORTED) {
    device_host_close();
    return error.message;
  }
  CHECK(status == THINK_OK);
  plan = make_plan(api, context);
  DEVICE_UNCHANGED();
  CHECK(api->score_state_size(plan, 1, &bytes, NULL) == THINK_OK);
  state = device_host_memory(bytes);
  api->launch_init(&launch, (uint32_t)sizeof launch);
  CHECK(api->workspace_size(plan, THINK_STAGE_SCORE, NULL, &launch.workspace_bytes, NULL, NULL) == THINK_OK);
  launch.workspace = device_host_memory(launch.workspace_bytes + 1);
  CHECK(state != NULL && launch.workspace != NULL);
  CHECK(api->score_reset(plan, state, NULL, &launch, &error) == THINK_OK);
  DEVICE_UNCHANGED();
  CHECK(api->score_reset(plan, NULL, NULL, &launch, &error) == THINK_E_ARGUMENT);
  DEVICE_UNCHANGED();
  /* what has nothing to do with it */
  CHECK(api->context_create(NULL, &host, NULL) == THINK_OK);
  own = make_plan(api, host);
  attend_in_cache(api, own);
  DEVICE_UNCHANGED();
  api->plan_destroy(own);
  api->context_destroy(host);
  api->plan_destroy(plan);
  api->context_destroy(context);
  DEVICE_UNCHANGED();
  device_host_close();
  return NULL;
}

int main(int argc, char **argv) {
  static manners before;
  const char *path = argc > 1 ? argv[1] : getenv("THINK_LIBRARY"), *left_out;
  void *library, *symbol;
  think_get_api_function get_api;
  const think_api *api;
  think_context *context = NULL;
  think_context_options options;
  think_plan *plan;
  int channel, printed[2];
  char byte;
  CHECK(path != NULL);
  for (channel = 0; channel < HEADS * ROWS * CHANNELS; ++channel) {
    /* subnormal numbers among the data */
    keys[channel] = channel % 7 == 0 ? FLT_MIN / 16 : (float)(channel % 13) * 0.1f;
    values[channel] = channel % 5 == 0 ? FLT_MIN / 16 : (float)(channel % 11) * 0.1f;
  }
  for (channel = 0; channel < HEADS * CHANNELS; ++channel) query_data[channel] = (float)(channel % 3) - 1;

  CHECK(setlocale(LC_ALL, "C.UTF-8") != NULL || setlocale(LC_ALL, "C") != NULL);
  report = fcntl(2, F_DUPFD_CLOEXEC, 10);
  CHECK(pipe2(printed, O_NONBLOCK | O_CLOEXEC) == 0);
  CHECK(dup2(printed[1], 1) == 1 && dup2(printed[1], 2) == 2);
  CHECK(subnormals_work());
  look(&before);
  CHECK(before.threads == 1);

  library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
  if (!library) dprintf(report, "%s\n", dlerror());
  CHECK(library != NULL);
  UNCHANGED(before);
  symbol = dlsym(library, "think_get_api");
  CHECK(symbol != NULL);
  memcpy(&get_api, &symbol, sizeof get_api);
  api = get_api(THINK_ABI_MAJOR, (uint32_t)sizeof(think_api));
  CHECK(api != NULL);

  CHECK(api->context_create(NULL, &context, NULL) == THINK_OK);
  UNCHANGED(before);
  plan = make_plan(api, context);
  UNCHANGED(before);
  attend(api, plan);
  attend_in_cache(api, plan);
  UNCHANGED(before);
  {
    /* a refused call */
    think_error error = THINK_ERROR_INIT;
    int64_t value;
    CHECK(api->query(context, 12345, &value, &error) != THINK_OK && error.message[0] != 0);
    UNCHANGED(before);
  }
#if defined(__x86_64__)
  {
    /* a host with a floating-point mode of its own keeps it: round up, flush subnormal results to zero */
    uint32_t normal, special, after;
    __asm__ volatile("stmxcsr %0" : "=m"(normal));
    special = (normal & ~0x3Fu) | 0xC000u;
    __asm__ volatile("ldmxcsr %0" : : "m"(special));
    attend(api, plan);
    __asm__ volatile("stmxcsr %0" : "=m"(after));
    __asm__ volatile("ldmxcsr %0" : : "m"(normal));
    CHECK((after & ~0x3Fu) == special);
  }
#endif
  UNCHANGED(before);
  api->plan_destroy(plan);
  api->context_destroy(context);
  UNCHANGED(before);

  /* threads: none before they were asked for and a plan exists, none afterwards */
  api->context_options_init(&options, (uint32_t)sizeof options);
  options.threads = 3;
  CHECK(api->context_create(&options, &context, NULL) == THINK_OK);
  UNCHANGED(before);
  plan = make_plan(api, context);
  CHECK(threads() == 3);
  attend(api, plan);
  CHECK(threads() == 3);
  check_masks_of_threads();
  {
    think_plan *second = make_plan(api, context);
    CHECK(threads() == 3); /* shared by the plans of a context */
    api->plan_destroy(plan);
    plan = second;
  }
  attend(api, plan);
  CHECK(threads() == 3);
  api->context_destroy(context);
  api->plan_destroy(plan);
  UNCHANGED(before);

  CHECK(!backend_is_loaded());
  CHECK(dlclose(library) == 0);
  UNCHANGED(before);
  CHECK(dlopen(path, RTLD_NOW | RTLD_NOLOAD) == library); /* -z nodelete */
  CHECK(api->abi_version() == THINK_ABI_MAJOR);
  left_out = on_a_device(api);
  fflush(NULL);
  CHECK(read(printed[0], &byte, 1) == -1); /* nothing was printed */
  if (left_out) {
    dprintf(report, "left out: the current context of a device: %s\n", left_out);
  } else {
    dprintf(report, "the current context of the device is as it was\n");
  }
  dprintf(report, "a good guest\n");
  return 0;
}
