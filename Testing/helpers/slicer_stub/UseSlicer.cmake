# Commands with the arguments of Slicer's and CTK's own. Each refuses an unknown argument or a missing file, as they
# do, and installs to where they install; nothing is compiled or copied at build time.

function(_install_each source_dir destination)
  foreach(file IN LISTS ARGN)
    if(NOT EXISTS "${source_dir}/${file}" OR IS_DIRECTORY "${source_dir}/${file}")
      message(FATAL_ERROR "given nonexistent file '${source_dir}/${file}'")
    endif()
    get_filename_component(folder "${file}" DIRECTORY)
    install(FILES "${source_dir}/${file}" DESTINATION "${destination}/${folder}")
  endforeach()
endfunction()

function(_refuse_unknown command)
  if(ARGN)
    message(FATAL_ERROR "Unknown keywords given to ${command}(): ${ARGN}")
  endif()
endfunction()

function(ctkMacroCompilePythonScript)
  cmake_parse_arguments(MY "NO_INSTALL_SUBDIR;GLOBAL_TARGET"
    "TARGET_NAME;SOURCE_DIR;DESTINATION_DIR;INSTALL_DIR" "SCRIPTS;RESOURCES" ${ARGN})
  _refuse_unknown(ctkMacroCompilePythonScript ${MY_UNPARSED_ARGUMENTS})
  foreach(name TARGET_NAME SCRIPTS DESTINATION_DIR INSTALL_DIR)
    if(NOT MY_${name})
      message(FATAL_ERROR "${name} is mandatory")
    endif()
  endforeach()
  if(NOT MY_SOURCE_DIR)
    set(MY_SOURCE_DIR "${CMAKE_CURRENT_SOURCE_DIR}")
  endif()
  if(NOT MY_NO_INSTALL_SUBDIR) # CTK then installs the folder itself, not what is in it
    get_filename_component(subdir "${MY_DESTINATION_DIR}" NAME)
    string(APPEND MY_INSTALL_DIR "/${subdir}")
  endif()
  set(scripts)
  foreach(script IN LISTS MY_SCRIPTS)
    if(NOT script MATCHES "[.]py$")
      string(APPEND script ".py")
    endif()
    list(APPEND scripts "${script}")
  endforeach()
  _install_each("${MY_SOURCE_DIR}" "${MY_INSTALL_DIR}" ${scripts} ${MY_RESOURCES})
endfunction()

function(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(MY "WITH_GENERIC_TESTS;WITH_SUBDIR;VERBOSE" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  _refuse_unknown(slicerMacroBuildScriptedModule ${MY_UNPARSED_ARGUMENTS})
  if(NOT MY_NAME)
    message(FATAL_ERROR "NAME is mandatory")
  endif()
  ctkMacroCompilePythonScript(
    TARGET_NAME ${MY_NAME}
    SCRIPTS "${MY_SCRIPTS}"
    RESOURCES "${MY_RESOURCES}"
    DESTINATION_DIR "${CMAKE_BINARY_DIR}/${Slicer_QTSCRIPTEDMODULES_LIB_DIR}"
    INSTALL_DIR "${Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR}"
    NO_INSTALL_SUBDIR)
endfunction()

function(SlicerMacroBuildScriptedCLI)
  cmake_parse_arguments(MY "NO_INSTALL;VERBOSE" "NAME;FOLDER" "" ${ARGN})
  _refuse_unknown(SlicerMacroBuildScriptedCLI ${MY_UNPARSED_ARGUMENTS})
  if(NOT MY_NAME)
    message(FATAL_ERROR "NAME is mandatory")
  endif()
  _install_each("${CMAKE_CURRENT_SOURCE_DIR}" "${Slicer_INSTALL_CLIMODULES_BIN_DIR}" ${MY_NAME}.py ${MY_NAME}.xml)
endfunction()

function(slicer_add_python_unittest)
  cmake_parse_arguments(MY "" "TESTNAME_PREFIX;SCRIPT" "SLICER_ARGS" ${ARGN})
  _refuse_unknown(slicer_add_python_unittest ${MY_UNPARSED_ARGUMENTS})
  if(NOT EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/${MY_SCRIPT}")
    message(FATAL_ERROR "no such test: '${MY_SCRIPT}'")
  endif()
endfunction()
