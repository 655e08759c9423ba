# What the headers need: libzmq, and the headers of FlatBuffers. Used by the build and by the installed package.

find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(TRACESTORE_ZMQ REQUIRED IMPORTED_TARGET libzmq)
find_path(TRACESTORE_FLATBUFFERS_INCLUDE flatbuffers/flatbuffers.h)
if(NOT TRACESTORE_FLATBUFFERS_INCLUDE)
  message(FATAL_ERROR "flatbuffers/flatbuffers.h was not found (Debian: libflatbuffers-dev); "
                      "set TRACESTORE_FLATBUFFERS_INCLUDE to the folder that holds it")
endif()

function(tracestore_flatbuffers_version RESULT)
  set(FOUND "")
  foreach(PART MAJOR MINOR REVISION)
    file(STRINGS ${TRACESTORE_FLATBUFFERS_INCLUDE}/flatbuffers/base.h LINE
         REGEX "#define FLATBUFFERS_VERSION_${PART} [0-9]+")
    string(REGEX MATCH "[0-9]+" NUMBER "${LINE}")
    list(APPEND FOUND "${NUMBER}")
  endforeach()
  list(JOIN FOUND "." FOUND)
  set(${RESULT} ${FOUND} PARENT_SCOPE)
endfunction()
