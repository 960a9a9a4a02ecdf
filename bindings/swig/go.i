/* Go: pointers are uintptr, numbers have their own width, and what a call says went wrong is an error. Only functions are wrapped: structs and constants are
 * written by bindings/tools/go.py. */
%include <stdint.i>

%{
#include "glue.h"
%}

%rename("$ignore", %$isclass) "";
%rename("$ignore", %$isconstant) "";

%typemap(gotype) int32_t "int32"
%typemap(gotype) uint32_t "uint32"
%typemap(gotype) int64_t "int64"
%typemap(gotype) size_t "uintptr"
%typemap(gotype) SWIGTYPE *, char * "uintptr"
%typemap(in) SWIGTYPE *, char * %{ $1 = ($1_ltype)$input; %}
%typemap(freearg) char * ""

/* Text that lives as long as the process. */
%typemap(gotype) const char * "string"
%typemap(imtype) const char * "uintptr"
%typemap(out) const char * %{ $result = (char *)$1; %}
%typemap(goout) const char * %{ $result = staticText($1) %}

/* Without a library there is nothing to call: functions that cannot fail give what they have for things that they do not know. */
%exception %{ THINK_GO_NOTE("$name"); $action %}
%define THINK_WITHOUT_LIBRARY(NAME, ANSWER)
%exception NAME %{
  THINK_GO_NOTE("$name");
  if (think_go_ready()) { $action } else result = ANSWER;
%}
%enddef
THINK_WITHOUT_LIBRARY(think_version, 0)
THINK_WITHOUT_LIBRARY(think_abi_version, 0)
THINK_WITHOUT_LIBRARY(think_version_string, (char *)"")
THINK_WITHOUT_LIBRARY(think_status_name, (char *)"unknown status")
THINK_WITHOUT_LIBRARY(think_dtype_bytes, 0)
THINK_WITHOUT_LIBRARY(think_dtype_name, (char *)"unknown")
THINK_WITHOUT_LIBRARY(think_kept_channels, -1)

/* Functions that fill a struct: its size is that of the type. */
%define THINK_SIZED(TYPE, NAME)
%typemap(in) (TYPE *NAME, uint32_t struct_size) %{
  if (!think_go_ready()) return;
  $1 = ($1_ltype)$input;
  $2 = (uint32_t)sizeof *$1;
%}
%typemap(argout) (TYPE *NAME, uint32_t struct_size) ""
%enddef
THINK_SIZED(think_error, error)
THINK_SIZED(think_tensor, tensor)
THINK_SIZED(think_batch, batch)
THINK_SIZED(think_problem, problem)
THINK_SIZED(think_launch, launch)
THINK_SIZED(think_extent, extent)
THINK_SIZED(think_basis, basis)
THINK_SIZED(think_segment, segment)
THINK_SIZED(think_format, format)
THINK_SIZED(think_layout_info, info)
THINK_SIZED(think_prune_result, result)
THINK_SIZED(think_cache_info, info)
THINK_SIZED(think_context_options, options)
THINK_SIZED(think_score_options, options)
THINK_SIZED(think_moments_options, options)
THINK_SIZED(think_budget_options, options)
THINK_SIZED(think_select_options, options)
THINK_SIZED(think_fit_options, options)
THINK_SIZED(think_evict_options, options)
THINK_SIZED(think_prune_options, options)
THINK_SIZED(think_cache_options, options)

/* A failed call hands over a copy of its record, which Go turns into an error. */
%define THINK_ERRORS
%typemap(gotype) think_status "error"
%typemap(imtype) think_status "int64"
%typemap(in, numinputs=0) think_error *error (think_error record) %{
  memset(&record, 0, sizeof record);
  record.struct_size = (uint32_t)sizeof record;
  if (!think_go_ready()) return think_go_absent();
  $1 = &record;
%}
%typemap(argout) think_error *error %{ _swig_go_result = think_go_failure(result, $1); %}
%typemap(out) think_status ""
%typemap(goout) think_status %{ $result = failure($1) %}
%enddef
