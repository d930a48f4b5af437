# Device code: nvcc as a plain compiler of kernels/**/*.cu, without CMake's CUDA language, whose compiler tests do not know
# an nvcc that pip installed, and which in CMake 3.25 does not know CUDA C++20.
#
# Sets WUNENG_WITH_CUDA, WUNENG_NVCC and WUNENG_NVCC_VERSION. A build with it also starts on machines without a GPU.
set(WUNENG_CUDA_ARCHITECTURES 80 90a 100 120 CACHE STRING "Compute capabilities that device code is compiled for")

# Sets `reason` to why there is no CUDA, empty when there is.
function(wuneng_find_nvcc reason)
  find_program(WUNENG_NVCC nvcc HINTS ${PROJECT_SOURCE_DIR}/.deps/nvcc/nvidia/cu13/bin PATHS ${LibTorch_ROOT}/../nvidia/cu13/bin /usr/local/cuda/bin)
  set(version)
  if(WUNENG_NVCC)
    execute_process(COMMAND ${WUNENG_NVCC} --version OUTPUT_VARIABLE text ERROR_QUIET)
    string(REGEX MATCH "release [0-9.]+, V([0-9.]+)" text "${text}")
    set(version ${CMAKE_MATCH_1})
  endif()
  set(WUNENG_NVCC_VERSION "${version}" PARENT_SCOPE)
  set(${reason} "" PARENT_SCOPE)
  if(NOT WUNENG_NVCC)
    set(${reason} "no nvcc was found: run scripts/setup.sh --tests, or put the CUDA 13 toolkit on PATH" PARENT_SCOPE)
  elseif(NOT version VERSION_GREATER_EQUAL 13.0)
    set(${reason} "${WUNENG_NVCC} is version '${version}', 13.0 or newer is needed: put the CUDA 13 toolkit on PATH" PARENT_SCOPE)
  elseif(NOT TARGET LibTorch::cuda)
    set(${reason} "${LibTorch_ROOT} has no libc10_cuda, or no CUDA 13 runtime lies beside it: name a LibTorch with CUDA" PARENT_SCOPE)
  endif()
endfunction()

find_program(WUNENG_CUOBJDUMP cuobjdump HINTS ${PROJECT_SOURCE_DIR}/.deps/cuobjdump/nvidia/cu13/bin PATHS /usr/local/cuda/bin)  # a test's

set(WUNENG_WITH_CUDA OFF)
if(NOT WUNENG_CUDA STREQUAL OFF)
  wuneng_find_nvcc(_reason)
  if(NOT _reason)
    set(WUNENG_WITH_CUDA ON)
  elseif(WUNENG_CUDA STREQUAL ON)
    message(FATAL_ERROR "WUNENG_CUDA=ON, but ${_reason}; or set WUNENG_CUDA=OFF")
  else()
    message(STATUS "WuNeng: without CUDA: ${_reason}")
  endif()
endif()

# wuneng_device_code(library): compiles every .cu of the library's folder, for all architectures at once, into the library.
# The objects are named in the target's property WUNENG_DEVICE_OBJECTS, for the test that reads them.
function(wuneng_device_code folder)
  set(flags -std=c++20 -O3 -lineinfo -Xcompiler=-fPIC -ccbin ${CMAKE_CXX_COMPILER} -I${PROJECT_SOURCE_DIR})
  if(NOT WUNENG_KERNELS_ONLY)
    list(APPEND flags -Werror all-warnings)
  endif()
  get_filename_component(toolkit ${WUNENG_NVCC} DIRECTORY)
  if(NOT EXISTS ${toolkit}/../include/cuda_runtime.h)  # pip's nvcc comes without the headers of the runtime
    list(APPEND flags -I${LibTorch_CUDA_INCLUDE})
  endif()
  foreach(architecture IN LISTS WUNENG_CUDA_ARCHITECTURES)
    list(APPEND flags -gencode arch=compute_${architecture},code=sm_${architecture})
  endforeach()
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${folder}/*.cu)
  set(objects)
  foreach(source IN LISTS sources)
    file(RELATIVE_PATH name ${PROJECT_SOURCE_DIR} ${source})
    set(object ${PROJECT_BINARY_DIR}/device/${name}.o)
    get_filename_component(parent ${object} DIRECTORY)
    file(MAKE_DIRECTORY ${parent})
    add_custom_command(OUTPUT ${object} DEPFILE ${object}.d DEPENDS ${source} VERBATIM
      COMMAND ${WUNENG_NVCC} ${flags} -MD -MF ${object}.d -MT ${object} -c ${source} -o ${object}
      COMMENT "Building CUDA object ${name}.o")
    list(APPEND objects ${object})
  endforeach()
  set_source_files_properties(${objects} PROPERTIES GENERATED TRUE EXTERNAL_OBJECT TRUE)
  target_sources(wuneng_${folder} PRIVATE ${objects})
  set_property(TARGET wuneng_${folder} PROPERTY WUNENG_DEVICE_OBJECTS ${objects})
endfunction()
