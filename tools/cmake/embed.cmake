# Writes OUT, a C++ file that holds the bytes of files: cmake -DOUT=FILE -DNAMES=a,b -DFILES=x,y -P embed.cmake
# An empty file name gives an empty text. Bytes, not string literals: compilers need not take long ones.
string(REPLACE "," ";" names "${NAMES}")
string(REPLACE "," ";" files "${FILES}")
set(content "#include \"report_assets.hpp\"\n\nnamespace dirigo::tools::assets {\n")
foreach(name file IN ZIP_LISTS names files)
  set(hex "")
  if(NOT file STREQUAL "none")
    file(READ "${file}" hex HEX)
  endif()
  string(REGEX REPLACE "(..)" "'\\\\x\\1'," bytes "${hex}")
  string(APPEND content "static const char ${name}_bytes[] = {${bytes}'\\0'};\n"
                        "const std::string_view ${name}(${name}_bytes, sizeof ${name}_bytes - 1);\n")
endforeach()
string(APPEND content "}  // namespace dirigo::tools::assets\n")
file(WRITE "${OUT}" "${content}")
