-- Markdown of the repository -> a page of the site: links lead to pages, wide things scroll in a box of their own,
-- code of ours and of PyTorch under one heading stands side by side.

local function is_local(target)
  return target ~= "" and not target:match("^%a[%w+.-]*:") and target:sub(1, 1) ~= "#"
end

-- README.md -> index.html, x.md -> x.html, other files -> x.cpp.html (tools/site writes those it finds linked)
function Link(link)
  if not is_local(link.target) then return nil end
  local path, anchor = link.target:match("^([^#]*)(#?.*)$")
  if path:match("README%.md$") then
    path = path:gsub("README%.md$", "index.html")
  elseif path:match("%.md$") then
    path = path:gsub("%.md$", ".html")
  elseif not path:match("%.html$") then
    path = path:gsub("/$", "") .. ".html"
  end
  link.target = path .. anchor
  return link
end

function Table(table)
  return pandoc.Div({ table }, pandoc.Attr("", { "wide" }))
end

local function language(block)
  return block.t == "CodeBlock" and block.classes[1]
end

local function labelled(name, blocks)
  table.insert(blocks, 1, pandoc.Div({ pandoc.Plain({ pandoc.Str(name) }) }, pandoc.Attr("", { "label" })))
  return pandoc.Div(blocks)
end

-- In a section "Code": what leads to the C++ blocks and they on the left, what leads to the Python block and it
-- on the right.
local function side_by_side(section)
  local left, right, rest, last_cpp = {}, {}, {}, 0
  for i, block in ipairs(section) do
    if language(block) == "cpp" then last_cpp = i end
  end
  local seen_python = false
  for i, block in ipairs(section) do
    if seen_python then
      rest[#rest + 1] = block
    elseif i <= last_cpp then
      left[#left + 1] = block
    else
      right[#right + 1] = block
      seen_python = language(block) == "python"
    end
  end
  if last_cpp == 0 or not seen_python then return section end
  local columns = { labelled("Dirigo", left), labelled("PyTorch", right) }
  table.insert(rest, 1, pandoc.Div(columns, pandoc.Attr("", { "beside" })))
  return rest
end

function Pandoc(document)
  local blocks, section, in_code = {}, {}, false
  local function close()
    for _, block in ipairs(in_code and side_by_side(section) or section) do blocks[#blocks + 1] = block end
    section = {}
  end
  for _, block in ipairs(document.blocks) do
    if block.t == "Header" and block.level <= 2 then
      if block.level == 1 then document.meta.pagetitle = pandoc.utils.stringify(block) end
      close()
      blocks[#blocks + 1] = block
      in_code = pandoc.utils.stringify(block) == "Code"
    elseif not (block.t == "RawBlock" and block.text:match("^<!%-%-")) then
      section[#section + 1] = block
    end
  end
  close()
  document.blocks = blocks
  return document
end
