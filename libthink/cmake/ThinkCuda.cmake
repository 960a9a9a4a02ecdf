# libthink_cuda.so.1: the CUDA backend, which the core loads when somebody asks for a device. Needs a compiler only, no GPU and no driver.
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  message(STATUS "Looking for CUDA 13 (libthink/cmake/cuda_toolkit.sh)")
  execute_process(COMMAND bash ${CMAKE_CURRENT_LIST_DIR}/cuda_toolkit.sh OUTPUT_VARIABLE think_toolkit RESULT_VARIABLE think_status)
  if(NOT think_status EQUAL 0 OR NOT think_toolkit MATCHES "CUDACXX=([^\n]+)")
    message(FATAL_ERROR "THINK_CUDA: no CUDA compiler (see above); set CUDACXX to an nvcc of CUDA 13.0 or newer, or configure with -DTHINK_CUDA=OFF")
  endif()
  set(CMAKE_CUDA_COMPILER ${CMAKE_MATCH_1} CACHE FILEPATH "nvcc")
endif()

# A number alone stands for machine code and PTX, which later architectures compile for themselves.
set(THINK_CUDA_ARCHITECTURES "80-real;86-real;89-real;90-real;100-real;120" CACHE STRING "Architectures of the CUDA backend, as CMAKE_CUDA_ARCHITECTURES")
set(CMAKE_CUDA_ARCHITECTURES ${THINK_CUDA_ARCHITECTURES})
enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 13.0)
  message(FATAL_ERROR "THINK_CUDA: CUDA 13.0 or newer is needed, ${CMAKE_CUDA_COMPILER} is ${CMAKE_CUDA_COMPILER_VERSION}")
endif()
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # nvcc knows C++20, CMake learnt of it after 3.25
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()
find_package(CUDAToolkit REQUIRED)
find_package(Python3 REQUIRED COMPONENTS Interpreter)
string(REGEX REPLACE "-(real|virtual)" "" think_architecture_names "${THINK_CUDA_ARCHITECTURES}")
string(REPLACE ";" " " think_architecture_names "${think_architecture_names}")

file(GLOB THINK_CUDA_SOURCES CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/kernels/*/cuda*.cu
  ${CMAKE_CURRENT_SOURCE_DIR}/kernels/*/state.cpp ${CMAKE_CURRENT_SOURCE_DIR}/libthink/backend/cuda/*.cpp)
set(think_cuda_map ${CMAKE_CURRENT_SOURCE_DIR}/libthink/backend/cuda/backend.map)
set(think_kernel_report ${CMAKE_CURRENT_SOURCE_DIR}/libthink/cmake/kernel_report.py)
set(think_kernel_reports ${CMAKE_CURRENT_BINARY_DIR}/kernel_reports)
# Reports of an older script are made again.
set(think_kernel_sources ${THINK_CUDA_SOURCES})
list(FILTER think_kernel_sources INCLUDE REGEX "[.]cu$")
set_property(SOURCE ${think_kernel_sources} APPEND PROPERTY OBJECT_DEPENDS ${think_kernel_report})

add_library(think_cuda SHARED ${THINK_CUDA_SOURCES})
target_include_directories(think_cuda PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/include ${CMAKE_CURRENT_SOURCE_DIR})
target_compile_definitions(think_cuda PRIVATE THINK_CUDA_ARCHITECTURES="${think_architecture_names}")
target_compile_options(think_cuda PRIVATE
  $<$<COMPILE_LANGUAGE:CXX>:${THINK_WARNINGS}>
  $<$<COMPILE_LANGUAGE:CUDA>:--compress-mode=size -Xptxas=-v -Xcompiler=-Wall,-Wextra>)
set_target_properties(think_cuda PROPERTIES
  VERSION 1.${PROJECT_VERSION} SOVERSION 1 LINKER_LANGUAGE CXX
  CUDA_VISIBILITY_PRESET hidden CUDA_RUNTIME_LIBRARY Static CUDA_RESOLVE_DEVICE_SYMBOLS OFF
  # Runs nvcc, keeps what ptxas says about registers and memory, and fails when a kernel spills.
  CUDA_COMPILER_LAUNCHER "${Python3_EXECUTABLE};${think_kernel_report};compile;${think_kernel_reports}"
  LINK_DEPENDS ${think_cuda_map})
target_link_options(think_cuda PRIVATE
  -static-libstdc++ -static-libgcc
  LINKER:--version-script=${think_cuda_map} LINKER:--exclude-libs,ALL LINKER:--as-needed LINKER:-z,defs LINKER:-z,nodelete)
target_link_libraries(think_cuda PRIVATE CUDA::cudart_static)
add_custom_command(TARGET think_cuda POST_BUILD COMMENT "Kernels: registers and memory" VERBATIM
  COMMAND ${Python3_EXECUTABLE} ${think_kernel_report} table ${think_kernel_reports} ${CMAKE_CURRENT_BINARY_DIR}/kernels.txt)
install(TARGETS think_cuda LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT cuda NAMELINK_SKIP)
