--[[ extend — add to a held claim's reservation, all meters or none; once per counter.
KEYS  1 attempts hash   2 accounts hash
ARGV  1 path   2 claim nonce   3 counter, rising by one per extension   4 amounts, "meter=amount ..."
REPLY {1} extended | {0} lease lost | {-4, account, meter, asked, free} refused for want of budget ]]
local claim = 'claim|' .. ARGV[2] .. '|'
local stored = redis.call('HMGET', KEYS[1], claim .. 'phase', claim .. 'extend', claim .. 'reserved', ARGV[1] .. '|terms')
if stored[1] ~= 'held' then return {0} end
if tonumber(stored[2] or 0) >= tonumber(ARGV[3]) then return {1} end
local chain, book, reserved = chain_of(terms_of(stored[4])[3]), book_open(KEYS[2]), amounts(stored[3])
for meter, asked in pairs(amounts(ARGV[4])) do
  local rows = lineage(book, chain, meter)
  if #rows > 0 then
    local most, account = reachable(rows)
    if most < asked then return {-4, account, meter, int(asked), int(most)} end
    take(rows, 'reserved', asked)
  end
  reserved[meter] = (reserved[meter] or 0) + asked
end
book_write(book)
local text = {}
for meter, amount in pairs(reserved) do text[#text + 1] = meter .. '=' .. int(amount) end
redis.call('HSET', KEYS[1], claim .. 'extend', ARGV[3], claim .. 'reserved', table.concat(text, ' '))
return {1}
