# Finds LibTorch without its own CMake package, which insists on a CUDA toolkit even where only the CPU library is used.
#
# Looks along CMAKE_PREFIX_PATH (a LibTorch zip, or `python -c "import torch.utils; print(torch.utils.cmake_prefix_path)"`),
# then where scripts/setup.sh puts it (.deps/libtorch). Defines the target LibTorch::cpu: headers, libtorch_cpu, libc10.
set(_hints)
foreach(prefix IN LISTS CMAKE_PREFIX_PATH)
  list(APPEND _hints ${prefix} ${prefix}/torch ${prefix}/../..)
endforeach()
list(APPEND _hints ${PROJECT_SOURCE_DIR}/.deps/libtorch/torch)

find_path(LibTorch_ROOT include/ATen/core/Tensor.h PATHS ${_hints} NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH)
find_library(LibTorch_CPU_LIBRARY torch_cpu PATHS ${LibTorch_ROOT}/lib NO_DEFAULT_PATH)
find_library(LibTorch_C10_LIBRARY c10 PATHS ${LibTorch_ROOT}/lib NO_DEFAULT_PATH)
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
    INTERFACE_LINK_LIBRARIES LibTorch::c10)
  # libtorch_cpu of a CUDA wheel needs libcudart and libcupti; torch's own RPATH finds them at run time, the linker must be told.
  set_property(TARGET LibTorch::cpu APPEND PROPERTY INTERFACE_LINK_OPTIONS
    "LINKER:-rpath-link,${LibTorch_ROOT}/../nvidia/cu13/lib")
endif()
