# Writes OUTPUT from TEMPLATE with the current commit; run at every build, but touches the file only when its content
# changes, so an unchanged commit rebuilds nothing and a new one rebuilds a single small file.
execute_process(COMMAND git -C ${SOURCE_DIR} rev-parse --short=12 HEAD
                OUTPUT_VARIABLE SURGERY_COMMIT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
if(failed)
  set(SURGERY_COMMIT "unknown")
else()
  execute_process(COMMAND git -C ${SOURCE_DIR} status --porcelain --untracked-files=no
                  OUTPUT_VARIABLE changes OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(changes)
    string(APPEND SURGERY_COMMIT "+changes")
  endif()
endif()
configure_file(${TEMPLATE} ${OUTPUT} @ONLY)
