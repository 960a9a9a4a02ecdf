#include "glue.h"

#include <pthread.h>
#include <stdlib.h>

#ifdef THINK_GO_LINK
int think_go_ready(void) { return 1; }
const char *think_go_reason(void) { return ""; }
#else
/* open.h has a table of its own, which it sets last */
#undef think_table
#define think_table opened
#include "open.h"

const think_api *think_go_table;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static char reason[sizeof(((think_error *)NULL)->message)];

static void open_library(void) {
  const char *name = getenv("THINK_LIBRARY");
  if (think_open(name && *name ? name : "libthink.so.1", reason, sizeof reason) == 0) think_go_table = opened;
}

int think_go_ready(void) {
  pthread_once(&once, open_library);
  return think_go_table != NULL;
}

const char *think_go_reason(void) { return reason; }
#endif

static think_error no_memory = {sizeof no_memory, 0, THINK_E_MEMORY, 0, 0, "no memory for the record of an error", 0};

int64_t think_go_failure(think_status status, const think_error *record) {
  think_error *copy;
  if (status == THINK_OK) return 0;
  copy = malloc(sizeof *copy);
  if (!copy) return (int64_t)(intptr_t)&no_memory;
  *copy = *record;
  copy->code = status;
  return (int64_t)(intptr_t)copy;
}

int64_t think_go_absent(void) {
  think_error record = THINK_ERROR_INIT;
  strncpy(record.message, think_go_reason(), sizeof record.message - 1);
  return think_go_failure(THINK_E_UNSUPPORTED, &record);
}

void think_go_release(think_error *record) {
  if (record != &no_memory) free(record);
}

void *think_go_allocate(size_t bytes) {
  void *memory = aligned_alloc(64, (bytes + 64) / 64 * 64);
  if (memory) memset(memory, 0, bytes);
  return memory;
}

#ifdef THINK_GO_CALLS
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *called[256];
static int count;

void think_go_note(const char *function) {
  int at = 0;
  pthread_mutex_lock(&lock);
  while (at < count && strcmp(called[at], function) != 0) ++at;
  if (at == count && at < (int)(sizeof called / sizeof *called)) called[count++] = function;
  pthread_mutex_unlock(&lock);
}

const char *think_go_called(int at) {
  const char *function;
  pthread_mutex_lock(&lock);
  function = at < count ? called[at] : NULL;
  pthread_mutex_unlock(&lock);
  return function;
}
#endif
