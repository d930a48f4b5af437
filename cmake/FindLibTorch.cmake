# Finds LibTorch without its own CMake package, which insists on a CUDA toolkit even where only the CPU library is used.
#
# Looks along CMAKE_PREFIX_PATH (a LibTorch zip, or `python -c "import torch.utils; print(torch.utils.cmake_prefix_path)"`),
# then where scripts/setup.sh puts it (.deps/libtorch). Defines the target LibTorch::cpu: headers, libtorch_cpu, libc10; and, where LibTorch
# has CUDA and a CUDA runtime is found, LibTorch::cuda: also libc10_cuda (streams, device guards) and libcudart, with its headers. Neither needs
# a driver. libtorch_cuda is not linked: it needs all of CUDA's libraries, so a program that meets a GPU loads it.
set(_hints)
foreach(prefix IN LISTS CMAKE_PREFIX_PATH)
  list(APPEND _hints ${prefix} ${prefix}/torch ${prefix}/../..)
endforeach()
list(APPEND _hints ${PROJECT_SOURCE_DIR}/.deps/libtorch/torch)

find_path(LibTorch_ROOT include/ATen/core/Tensor.h PATHS ${_hints} NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH)
find_library(LibTorch_CPU_LIBRARY torch_cpu PATHS ${LibTorch_ROOT}/lib NO_DEFAULT_PATH)
find_library(LibTorch_C10_LIBRARY c10 PATHS ${LibTorch_ROOT}/lib NO_DEFAULT_PATH)
find_library(LibTorch_C10_CUDA_LIBRARY c10_cuda PATHS ${LibTorch_ROOT}/lib NO_DEFAULT_PATH)
# The CUDA runtime that LibTorch was built with lies beside it (pip) or inside it (zip); else that of a toolkit.
find_program(LibTorch_NVCC nvcc)
get_filename_component(_toolkit "${LibTorch_NVCC}" REALPATH)
get_filename_component(_toolkit "${_toolkit}/../.." ABSOLUTE)
set(_toolkits ${_toolkit} $ENV{CUDA_HOME} $ENV{CUDA_PATH} /usr/local/cuda)
list(TRANSFORM _toolkits APPEND /lib64 OUTPUT_VARIABLE _toolkit_libraries)
list(TRANSFORM _toolkits APPEND /include OUTPUT_VARIABLE _toolkit_headers)
find_file(LibTorch_CUDART_LIBRARY NAMES libcudart.so.13 libcudart.so
  PATHS ${LibTorch_ROOT}/../nvidia/cu13/lib ${LibTorch_ROOT}/lib ${_toolkit_libraries} NO_DEFAULT_PATH)
find_path(LibTorch_CUDA_INCLUDE cuda_runtime.h PATHS ${LibTorch_ROOT}/../nvidia/cu13/include ${_toolkit_headers} NO_DEFAULT_PATH)
# at::parallel_for is a template: without -fopenmp it runs on one thread, whatever at::set_num_threads says. What it calls must be the OpenMP
# library that LibTorch brings under a name of its own (libgomp.so.1, libgomp-<hash>.so.1): the system's beside it would be a second pool.
file(GLOB LibTorch_OPENMP_LIBRARY ${LibTorch_ROOT}/lib/libgomp*.so*)
if(NOT LibTorch_OPENMP_LIBRARY)
  set(LibTorch_OPENMP_LIBRARY gomp)
endif()
if(LibTorch_ROOT)
  file(STRINGS ${LibTorch_ROOT}/include/torch/headeronly/version.h _lines REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
  string(REGEX MATCHALL "[0-9]+" _numbers "${_lines}")
  list(JOIN _numbers "." LibTorch_VERSION)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibTorch
  REQUIRED_VARS LibTorch_CPU_LIBRARY LibTorch_C10_LIBRARY LibTorch_ROOT
  VERSION_VAR LibTorch_VERSION
  REASON_FAILURE_MESSAGE "run scripts/setup.sh, or pass -DCMAKE_PREFIX_PATH=<LibTorch 2.11 or newer>")

if(LibTorch_FOUND AND NOT TARGET LibTorch::cpu)
  add_library(LibTorch::c10 SHARED IMPORTED)
  set_target_properties(LibTorch::c10 PROPERTIES IMPORTED_LOCATION ${LibTorch_C10_LIBRARY})
  add_library(LibTorch::cpu SHARED IMPORTED)
  set_target_properties(LibTorch::cpu PROPERTIES
    IMPORTED_LOCATION ${LibTorch_CPU_LIBRARY}
    INTERFACE_INCLUDE_DIRECTORIES "${LibTorch_ROOT}/include;${LibTorch_ROOT}/include/torch/csrc/api/include"
    INTERFACE_COMPILE_OPTIONS -fopenmp
    INTERFACE_LINK_LIBRARIES "LibTorch::c10;${LibTorch_OPENMP_LIBRARY}")
  # libtorch_cpu of a CUDA wheel needs libcudart and libcupti; torch's own RPATH finds them at run time, the linker must be told.
  set_property(TARGET LibTorch::cpu APPEND PROPERTY INTERFACE_LINK_OPTIONS
    "LINKER:-rpath-link,${LibTorch_ROOT}/../nvidia/cu13/lib")
endif()
if(LibTorch_FOUND AND LibTorch_C10_CUDA_LIBRARY AND LibTorch_CUDART_LIBRARY AND LibTorch_CUDA_INCLUDE AND NOT TARGET LibTorch::cuda)
  add_library(LibTorch::cudart SHARED IMPORTED)
  set_target_properties(LibTorch::cudart PROPERTIES IMPORTED_LOCATION ${LibTorch_CUDART_LIBRARY})
  add_library(LibTorch::cuda SHARED IMPORTED)
  set_target_properties(LibTorch::cuda PROPERTIES
    IMPORTED_LOCATION ${LibTorch_C10_CUDA_LIBRARY}
    INTERFACE_INCLUDE_DIRECTORIES ${LibTorch_CUDA_INCLUDE}
    INTERFACE_LINK_LIBRARIES "LibTorch::cpu;LibTorch::cudart")
endif()
