# The headers' plain comments as Doxygen wants them: the first block is the file's, the others that of what follows,
# those behind a declaration its own.
1s|^// |/// \\file\
/// |
s|^( *)// ([^-])|\1/// \2|
s|^( *)//$|\1///|
s|([;,])  // |\1  ///< |
