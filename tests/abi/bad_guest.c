/* A libthink that is a bad guest, to see that the guest certificates of the languages notice (bindings/tools/guests.sh): the real library, linked behind
 * this one, with one bad manner that THINK_BAD_MANNER names. It goes wrong when a cache attends. Whether a host looks a function up by name or in the table, it
 * finds this one first. */
#define _GNU_SOURCE
#include "think/api.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <fenv.h>
#include <locale.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef think_status attend_function(const think_cache *, int32_t, const think_tensor *, const float *, const think_tensor *, float *, const think_launch *,
                                     think_error *);

static void handler(int number) { (void)number; }

static void *idle(void *unused) {
  for (;;) pause();
  return unused;
}

static void *following(const char *name) {
  void *found = dlsym(RTLD_NEXT, name);
  if (!found) abort();
  return found;
}

/* Of a device, if this process has one to do with. */
static void leave_another_context(void) {
  void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD), *context;
  int (*create)(void **, unsigned, int);
  if (!driver) return;
  *(void **)&create = dlsym(driver, "cuCtxCreate_v2");
  if (!create || create(&context, 0, 0) != 0) abort();
}

static void misbehave(const char *manner, const think_tensor *output) {
  static int64_t calls;
  sigset_t signals;
  pthread_t thread;
  if (strcmp(manner, "rounding") == 0) {
    fesetround(FE_UPWARD);
  } else if (strcmp(manner, "trap") == 0) {
    feenableexcept(FE_DIVBYZERO);
#if defined(__x86_64__)
  } else if (strcmp(manner, "flush") == 0) {
    __builtin_ia32_ldmxcsr(__builtin_ia32_stmxcsr() | 0x8040u);
#endif
  } else if (strcmp(manner, "handler") == 0) {
    signal(SIGUSR2, handler);
  } else if (strcmp(manner, "mask") == 0) {
    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
  } else if (strcmp(manner, "locale") == 0) {
    setlocale(LC_NUMERIC, strcmp(setlocale(LC_NUMERIC, NULL), "C") == 0 ? "C.UTF-8" : "C");
  } else if (strcmp(manner, "thread") == 0) {
    if (pthread_create(&thread, NULL, idle, NULL) != 0) abort();
  } else if (strcmp(manner, "folder") == 0) {
    if (chdir("/") != 0) abort();
  } else if (strcmp(manner, "file") == 0) { /* left open */
    if (open("/dev/null", O_RDONLY) < 0) abort();
  } else if (strcmp(manner, "umask") == 0) {
    umask(0123);
  } else if (strcmp(manner, "environment") == 0) {
    setenv("THINK_WAS_HERE", "1", 1);
  } else if (strcmp(manner, "device") == 0) {
    leave_another_context();
  } else if (strcmp(manner, "shared") == 0) { /* what one call leaves behind shows in a later one */
    if (__atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED) % 8 == 0) ((float *)output->data)[0] += 1;
  } else if (strcmp(manner, "leak") == 0) {
    static void *volatile left;
    left = malloc(1 << 20);
    memset(left, 1, 1 << 20);
  } else {
    abort(); /* a word that nobody knows would test nothing */
  }
}

THINK_API think_status think_cache_attend(const think_cache *cache, int32_t layer, const think_tensor *query, const float *sink_logit,
                                          const think_tensor *output, float *lse, const think_launch *launch, think_error *error) {
  const char *manner = getenv("THINK_BAD_MANNER");
  attend_function *attend;
  *(void **)&attend = following("think_cache_attend");
  think_status status = attend(cache, layer, query, sink_logit, output, lse, launch, error);
  if (manner) misbehave(manner, output);
  return status;
}

THINK_API const think_api *think_get_api(uint32_t abi_major, uint32_t table_size) {
  static think_api copy;
  think_get_api_function get;
  *(void **)&get = following("think_get_api");
  const think_api *real = get(abi_major, table_size);
  if (!real || real->struct_size != sizeof copy) return real;
  copy = *real;
  copy.cache_attend = think_cache_attend;
  return &copy;
}
