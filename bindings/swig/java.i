/* Java: handles and structs are the classes of the package, other memory is a Memory, and what is needed stays reachable until the call returns. A record of
 * an error becomes a ThinkException, unless a hook or stream of Java's has thrown already. Only functions are wrapped: structs and constants are written by
 * bindings/tools/java.py. */
%include <stdint.i>

%{
#include "glue.h"
%}

%rename("$ignore", %$isclass) "";
%rename("$ignore", %$isconstant) "";
%pragma(java) moduleclassmodifiers = "final class"
%pragma(java) jniclassclassmodifiers = "final class"
%pragma(java) jniclasscode = %{
  static { Library.load(); }
%}

%apply int { uint32_t };
%apply long long { size_t };

/* A struct, by the address that its class knows; null is NULL. */
%define THINK_STRUCT(C, JAVA)
%typemap(jni) C *, const C * "jlong"
%typemap(jtype) C *, const C * "long"
%typemap(jstype) C *, const C * "JAVA"
%typemap(javain, post="      java.lang.ref.Reference.reachabilityFence($javainput);") C *, const C * "Struct.addressOf($javainput)"
%typemap(in) C *, const C * %{ $1 = ($1_ltype)(intptr_t)$input; %}
%enddef
THINK_STRUCT(think_error, ErrorRecord)
THINK_STRUCT(think_tensor, Tensor)
THINK_STRUCT(think_batch, Batch)
THINK_STRUCT(think_context_options, ContextOptions)
THINK_STRUCT(think_problem, Problem)
THINK_STRUCT(think_launch, Launch)
THINK_STRUCT(think_extent, Extent)
THINK_STRUCT(think_basis, Basis)
THINK_STRUCT(think_segment, Segment)
THINK_STRUCT(think_format, Format)
THINK_STRUCT(think_layout_info, LayoutInfo)
THINK_STRUCT(think_evict_options, EvictOptions)
THINK_STRUCT(think_score_options, ScoreOptions)
THINK_STRUCT(think_moments_options, MomentsOptions)
THINK_STRUCT(think_budget_options, BudgetOptions)
THINK_STRUCT(think_select_options, SelectOptions)
THINK_STRUCT(think_fit_options, FitOptions)
THINK_STRUCT(think_prune_options, PruneOptions)
THINK_STRUCT(think_prune_result, PruneResult)
THINK_STRUCT(think_cache_options, CacheOptions)
THINK_STRUCT(think_cache_info, CacheInfo)

/* A handle: a call holds it, so that what is closed meanwhile lives until the call returns. Where it is closed already nothing is called. */
%define THINK_HANDLE(C)
%typemap(jni) C *, const C * "jlong"
%typemap(jtype) C *, const C * "long"
%typemap(jstype) C *, const C * "Handle"
%typemap(javain, pre="    long at$javainput = Handle.enter($javainput);", post="      Handle.leave($javainput);") C *, const C * "at$javainput"
%typemap(in) C *, const C * %{ $1 = ($1_ltype)(intptr_t)$input; %}
%typemap(jni) C ** "jlongArray"
%typemap(jtype) C ** "long[]"
%typemap(jstype) C ** "long[]"
%typemap(javain) C ** "$javainput"
%typemap(in, numinputs=1) C ** (C *made) %{ made = NULL; $1 = &made; %}
%typemap(argout) C ** %{ if (result == THINK_OK) (*jenv)->SetLongArrayRegion(jenv, $input, 0, 1, &(jlong){(jlong)(intptr_t)*$1}); %}
%enddef
THINK_HANDLE(think_context)
THINK_HANDLE(think_plan)
THINK_HANDLE(think_cache)

/* Memory of the caller; what the library writes to must not be read-only. */
%define THINK_MEMORY(TYPE, ADDRESS)
%typemap(jni) TYPE "jlong"
%typemap(jtype) TYPE "long"
%typemap(jstype) TYPE "Memory"
%typemap(javain, post="      java.lang.ref.Reference.reachabilityFence($javainput);") TYPE "Memory.ADDRESS($javainput)"
%typemap(in) TYPE %{ $1 = ($1_ltype)(intptr_t)$input; %}
%typemap(freearg) TYPE ""
%enddef
THINK_MEMORY(void *, writable)
THINK_MEMORY(const void *, readable)
THINK_MEMORY(float *, writable)
THINK_MEMORY(const float *, readable)
THINK_MEMORY(int32_t *, writable)
THINK_MEMORY(const int32_t *, readable)
THINK_MEMORY(uint8_t *, writable)
THINK_MEMORY(char *text, writable)
THINK_MEMORY(char *json, writable)
THINK_MEMORY(think_segment *segments, writable)
THINK_MEMORY(const struct DLTensor *, readable)

/* One number that comes out, in an array of one. */
%define THINK_RESULT(TYPE, NAME, JNI_TYPE, ARRAY, JAVA_ARRAY, SET)
%typemap(jni) TYPE *NAME "ARRAY"
%typemap(jtype) TYPE *NAME "JAVA_ARRAY"
%typemap(jstype) TYPE *NAME "JAVA_ARRAY"
%typemap(javain) TYPE *NAME "$javainput"
%typemap(in) TYPE *NAME (TYPE value) %{ value = 0; $1 = $input ? &value : NULL; %}
%typemap(argout) TYPE *NAME %{ if (result == THINK_OK && $1) (*jenv)->SET(jenv, $input, 0, 1, &(JNI_TYPE){(JNI_TYPE)*$1}); %}
%enddef
THINK_RESULT(int64_t, bytes, jlong, jlongArray, long[], SetLongArrayRegion)
THINK_RESULT(int64_t, alignment, jlong, jlongArray, long[], SetLongArrayRegion)
THINK_RESULT(int64_t, value, jlong, jlongArray, long[], SetLongArrayRegion)
THINK_RESULT(int64_t, id, jlong, jlongArray, long[], SetLongArrayRegion)
THINK_RESULT(size_t, needed, jlong, jlongArray, long[], SetLongArrayRegion)
THINK_RESULT(int32_t, count, jint, jintArray, int[], SetIntArrayRegion)
THINK_RESULT(think_device, device, jint, jintArray, int[], SetIntArrayRegion)

/* Short lists that the library reads before it returns. */
%define THINK_INTS(NAME)
%typemap(jni) const int32_t *NAME "jintArray"
%typemap(jtype) const int32_t *NAME "int[]"
%typemap(jstype) const int32_t *NAME "int[]"
%typemap(javain) const int32_t *NAME "$javainput"
%typemap(in) const int32_t *NAME %{ $1 = $input ? (int32_t *)(*jenv)->GetIntArrayElements(jenv, $input, NULL) : NULL; %}
%typemap(freearg) const int32_t *NAME %{ if ($1) (*jenv)->ReleaseIntArrayElements(jenv, $input, (jint *)$1, JNI_ABORT); %}
%enddef
THINK_INTS(sequences)
THINK_INTS(new_tokens)

/* Lists of structs, copied behind one another. */
%typemap(jni) (const think_segment *segments, int32_t segment_count) "jlongArray"
%typemap(jtype) (const think_segment *segments, int32_t segment_count) "long[]"
%typemap(jstype) (const think_segment *segments, int32_t segment_count) "java.util.List<Segment>"
%typemap(javain, post="      java.lang.ref.Reference.reachabilityFence($javainput);") (const think_segment *segments, int32_t segment_count)
  "Struct.addressesOf($javainput)"
%typemap(in) (const think_segment *segments, int32_t segment_count) %{
  $1 = (think_segment *)gather(jenv, $input, sizeof *$1, 0, &$2);
  if ((*jenv)->ExceptionCheck(jenv)) return $null;
%}
%typemap(freearg) (const think_segment *segments, int32_t segment_count) %{ free($1); %}
%typemap(jni) (const think_tensor *outputs, const float *const *lses, int32_t count) "jlongArray"
%typemap(jtype) (const think_tensor *outputs, const float *const *lses, int32_t count) "long[]"
%typemap(jstype) (const think_tensor *outputs, const float *const *lses, int32_t count) "Parts"
%typemap(javain, post="      java.lang.ref.Reference.reachabilityFence($javainput);") (const think_tensor *outputs, const float *const *lses, int32_t count)
  "$javainput.addresses()"
%typemap(in) (const think_tensor *outputs, const float *const *lses, int32_t count) %{
  $1 = (think_tensor *)gather(jenv, $input, sizeof *$1, 1, &$3);
  if ((*jenv)->ExceptionCheck(jenv)) return $null;
  $2 = ($2_ltype)((char *)$1 + (size_t)$3 * sizeof *$1);
%}
%typemap(freearg) (const think_tensor *outputs, const float *const *lses, int32_t count) %{ free($1); %}

/* Streams, called in the thread of the call. */
%define THINK_STREAM(CALLBACK, NAME, FUNCTION)
%typemap(jni) (CALLBACK NAME, void *user) "jobject"
%typemap(jtype) (CALLBACK NAME, void *user) "Stream"
%typemap(jstype) (CALLBACK NAME, void *user) "Stream"
%typemap(javain) (CALLBACK NAME, void *user) "$javainput"
%typemap(in) (CALLBACK NAME, void *user) %{ $1 = FUNCTION; $2 = $input; %}
%enddef
THINK_STREAM(think_writer, write, stream_write)
THINK_STREAM(think_reader, read, stream_read)

/* What is no function of the library: opening it, memory and hooks (glue.h). */
%native(open) void open(jstring path);
%native(address) jlong address(jobject buffer);
%native(buffer) jobject buffer(jlong address, jlong bytes);
%native(hook) jlong hook(jlong options, jobject hooks, jint which);
%native(unhook) void unhook(jlong hooks);
%native(task) void task(jlong task, jlong argument, jlong index);

%define THINK_ERRORS
%typemap(jni) think_status "void"
%typemap(jtype) think_status "void"
%typemap(jstype) think_status "void"
%typemap(out) think_status ""
%typemap(javaout) think_status { $jnicall; }
%typemap(in, numinputs=0) think_error *error (think_error record) %{
  memset(&record, 0, sizeof record);
  record.struct_size = (uint32_t)sizeof record;
  $1 = &record;
%}
%typemap(argout) think_error *error %{ if (result != THINK_OK) throw_error(jenv, "$symname", result, $1); %}
%enddef
