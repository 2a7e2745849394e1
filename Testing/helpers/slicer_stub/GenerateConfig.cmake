# Slicer writes the extension's description here, from these variables.
foreach(name HOMEPAGE CATEGORY CONTRIBUTORS DESCRIPTION ICONURL SCREENSHOTURLS DEPENDS)
  if(NOT EXTENSION_${name})
    message(FATAL_ERROR "EXTENSION_${name} is not set")
  endif()
endforeach()
file(WRITE "${CMAKE_BINARY_DIR}/description.txt" "${PROJECT_NAME}\n${EXTENSION_DEPENDS}\n${EXTENSION_CATEGORY}\n")
