/* Debian's Lua (liblua5.4.a, unmodified) with the least a program needs around it: runs the file
 * its first argument names, or the request. */
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdio.h>

int main(int argc, char **argv) {
    lua_State *lua = luaL_newstate();
    if (!lua) return 1;
    luaL_openlibs(lua);
    if (luaL_dofile(lua, argc > 1 ? argv[1] : NULL)) {
        fprintf(stderr, "lua: %s\n", lua_tostring(lua, -1));
        return 1;
    }
    lua_close(lua);
    return 0;
}
