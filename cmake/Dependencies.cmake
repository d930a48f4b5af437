# Everything found outside the repository. scripts/setup.sh installs what is missing.
find_package(Threads REQUIRED)
find_package(LibTorch 2.11 REQUIRED)
include(Cuda)

# The kernels alone need nothing but LibTorch, which carries the headers of an fmt.
if(WUNENG_KERNELS_ONLY)
  message(STATUS "WuNeng: the kernels only, LibTorch ${LibTorch_VERSION}, CUDA ${WUNENG_WITH_CUDA}")
  return()
endif()
find_package(PkgConfig REQUIRED)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(CLI11 REQUIRED)
pkg_check_modules(xxhash REQUIRED IMPORTED_TARGET libxxhash)

# oneDNN is loaded when the first product is made (kernels/product.cpp), by the name that an update keeps.
find_library(WUNENG_ONEDNN_LIBRARY NAMES dnnl libdnnl.so.3 libdnnl.so.2 REQUIRED)
file(REAL_PATH ${WUNENG_ONEDNN_LIBRARY} _onednn)
string(REGEX REPLACE "(libdnnl\\.so\\.[0-9]+).*" "\\1" WUNENG_ONEDNN ${_onednn})

# LibTorch carries the headers of its own fmt; ours must be those of the fmt that spdlog was built with, so they are searched first.
find_path(WUNENG_FMT_INCLUDE fmt/format.h PATHS /usr/include /usr/local/include REQUIRED)
file(MAKE_DIRECTORY ${PROJECT_BINARY_DIR}/include)
file(CREATE_LINK ${WUNENG_FMT_INCLUDE}/fmt ${PROJECT_BINARY_DIR}/include/fmt SYMBOLIC)
target_include_directories(wuneng_options SYSTEM INTERFACE ${PROJECT_BINARY_DIR}/include)

# MPI: processes talk through it; without it the program still trains, in one process.
set(WUNENG_MPI_LIBRARIES)
if(NOT WUNENG_MPI STREQUAL OFF)
  set(MPI_CXX_SKIP_MPICXX ON)
  find_package(MPI COMPONENTS CXX)
  if(MPI_CXX_FOUND)
    set(WUNENG_MPI_LIBRARIES MPI::MPI_CXX)
    target_compile_definitions(wuneng_options INTERFACE WUNENG_WITH_MPI)
  elseif(WUNENG_MPI STREQUAL ON)
    message(FATAL_ERROR "WUNENG_MPI=ON, but no MPI was found: install libopenmpi-dev and openmpi-bin, or set WUNENG_MPI=OFF")
  endif()
endif()

# NCCL: what GPUs talk through; only where there is CUDA. It needs no driver to be linked.
set(WUNENG_NCCL_LIBRARIES)
if(WUNENG_WITH_CUDA)
  set(_nccl ${PROJECT_SOURCE_DIR}/.deps/cuda/nvidia/nccl ${LibTorch_ROOT}/../nvidia/nccl ${LibTorch_CUDA_INCLUDE}/..)
  find_path(WUNENG_NCCL_INCLUDE nccl.h HINTS ${_nccl} PATH_SUFFIXES include)
  find_library(WUNENG_NCCL_LIBRARY NAMES libnccl.so.2 nccl HINTS ${_nccl} PATH_SUFFIXES lib lib64)
  if(WUNENG_NCCL_INCLUDE AND WUNENG_NCCL_LIBRARY)
    add_library(WuNeng::nccl SHARED IMPORTED)
    set_target_properties(WuNeng::nccl PROPERTIES IMPORTED_LOCATION ${WUNENG_NCCL_LIBRARY}
      INTERFACE_INCLUDE_DIRECTORIES ${WUNENG_NCCL_INCLUDE} INTERFACE_COMPILE_DEFINITIONS WUNENG_WITH_NCCL)
    set(WUNENG_NCCL_LIBRARIES WuNeng::nccl)
  else()
    message(STATUS "WuNeng: without NCCL: no nccl.h and libnccl.so.2 were found; scripts/setup.sh --tests installs them")
  endif()
endif()

message(STATUS "WuNeng: LibTorch ${LibTorch_VERSION}, MPI ${MPI_CXX_VERSION}, CUDA ${WUNENG_WITH_CUDA}")
