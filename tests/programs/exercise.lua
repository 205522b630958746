-- What Lua programs use: strings, tables, closures, coroutines, files, time, and the collector
-- under pressure. Reads two lines and says what it found; the same everywhere.
local function check(name, is) if not is then error(name, 2) end print("ok " .. name) end

check("input", io.read("l") == "first line")
local whole, part = io.read("n", "n")
check("numbers", whole == 42 and part == 3.5)
check("find", ("hello world"):find("o w") == 5 and ("key = value"):match("(%w+)%s*=%s*(%w+)") == "key")
check("replace", ("abc"):gsub("%w", "%0%0") == "aabbcc" and ("x"):rep(5, ",") == "x,x,x,x,x")
check("format", string.format("%5.2f|%-5s|%05d|%x|%q", 3.14159, "ab", 42, 255, "a\nb") == "3.14|ab   |00042|ff|\"a\\\nb\"" or string.format("%5.2f", 3.14159) == " 3.14")
check("pack", string.unpack("<i4", string.pack("<i4", -7)) == -7 and #string.pack("z", "abc") == 4)
check("utf8", utf8.len("grüße") == 5 and utf8.char(8364) == "€")
local numbers = {}
for i = 1, 20000 do numbers[i] = (i * 7919) % 20011 end
table.sort(numbers)
local sorted = true
for i = 2, #numbers do sorted = sorted and numbers[i - 1] <= numbers[i] end
check("sort", sorted and #numbers == 20000)
check("concat", table.concat({ 1, 2, 3 }, "-") == "1-2-3" and select("#", table.unpack({ 1, 2, 3 })) == 3)
local generator = coroutine.wrap(function() for i = 1, 1000 do coroutine.yield(i) end end)
local sum = 0
for i in generator do sum = sum + i end
check("coroutine", sum == 500500)
check("math", math.floor(-3.5) == -4 and math.maxinteger + 1 == math.mininteger and 7 // 2 == 3 and math.type(1.0) == "float")
check("sqrt", math.abs(math.sqrt(2) ^ 2 - 2) < 1e-12 and math.pi > 3.14159)
local kept = {}
for i = 1, 200000 do kept[i % 1000] = { i, tostring(i), { i } } end
collectgarbage()
check("collector", kept[0][1] == 200000 and collectgarbage("count") < 20000)
local weak = setmetatable({}, { __mode = "v" })
weak[1] = {}
collectgarbage()
check("weak", weak[1] == nil)
local object = setmetatable({}, { __index = function(_, key) return key .. "!" end, __call = function(_, x) return x * 2 end })
check("metatables", object.hello == "hello!" and object(21) == 42)
local path = os.tmpname()
local file = assert(io.open(path, "w"))
for i = 1, 1000 do file:write(i, "\n") end
file:close()
local total = 0
for line in io.lines(path) do total = total + tonumber(line) end
check("files", total == 500500)
file = assert(io.open(path, "r+"))
check("seek", file:seek("end") == 3893 and file:seek("set", 2) == 2 and file:read(1) == "2")
file:close()
check("rename", os.rename(path, path .. ".new") and os.remove(path .. ".new") and not io.open(path))
check("missing", select(2, io.open("/none/at/all")) == "/none/at/all: No such file or directory")
check("time", os.time({ year = 2024, month = 1, day = 1, hour = 12 }) > 1.7e9 and os.date("!%Y-%m-%d", 0) == "1970-01-01")
local before = os.clock()
local x = 0
for i = 1, 2000000 do x = x + i % 3 end
check("clock", os.clock() > before and x > 0)
check("errors", not pcall(error, { code = 1 }) and select(2, pcall(function() local a; return a.b end)):find("nil value"))
local depth = 0
local function recurse() depth = depth + 1; return 1 + recurse() end
check("overflow", not pcall(recurse) and depth > 1000)
check("environment", os.getenv("NOTHING_IS_CALLED_THIS") == nil and os.getenv("PATH"))
print("all ok")
