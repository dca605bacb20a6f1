/*
 * One line from the terminal, with the keys that fingers expect: Backspace, arrows, Home/End (also Ctrl-A, Ctrl-E),
 * Delete, Ctrl-C and Ctrl-U to give up the line, arrow up and down for history, Tab to complete a command's name.
 * The terminal speaks ECMA-48: keys arrive as ESC [ letter or ESC [ digit ~.
 */
#include "kernel.h"

#define LINE_MAX_LENGTH 120
#define HISTORY         16

typedef struct Line {
    char text[LINE_MAX_LENGTH + 1];
    size_t length, cursor;
    unsigned back; /* how far into history */
} Line;

enum { KEY_UP = 0x100, KEY_DOWN, KEY_RIGHT, KEY_LEFT, KEY_HOME, KEY_END, KEY_DELETE, KEY_OTHER };

static char history[HISTORY][LINE_MAX_LENGTH + 1];
static unsigned history_count;

static int read_key(void)
{
    int c = (uint8_t)serial_getc();
    if (c != 0x1b)
        return c;
    c = serial_getc();
    if (c != '[' && c != 'O')
        return KEY_OTHER;
    c = serial_getc();
    if (c >= '0' && c <= '9') {
        int digit = c;
        while (c != '~' && (c < '@'))
            c = serial_getc();
        return digit == '3'                   ? KEY_DELETE
               : digit == '1' || digit == '7' ? KEY_HOME
               : digit == '4' || digit == '8' ? KEY_END
                                              : KEY_OTHER;
    }
    switch (c) {
    case 'A':
        return KEY_UP;
    case 'B':
        return KEY_DOWN;
    case 'C':
        return KEY_RIGHT;
    case 'D':
        return KEY_LEFT;
    case 'H':
        return KEY_HOME;
    case 'F':
        return KEY_END;
    default:
        return KEY_OTHER;
    }
}

static void redraw(const char *prompt, const Line *line)
{
    print("\r\x1b[K%s%s", prompt, line->text);
    if (line->cursor < line->length)
        print("\x1b[%luD", line->length - line->cursor);
}

static void insert(const char *prompt, Line *line, char c)
{
    if (line->length == LINE_MAX_LENGTH)
        return;
    memmove(line->text + line->cursor + 1, line->text + line->cursor, line->length - line->cursor + 1);
    line->text[line->cursor++] = c;
    line->length++;
    if (line->cursor == line->length)
        serial_write(&c, 1);
    else
        redraw(prompt, line);
}

static void erase(const char *prompt, Line *line, size_t at)
{
    if (at >= line->length)
        return;
    memmove(line->text + at, line->text + at + 1, line->length - at);
    line->length--;
    line->cursor = at;
    redraw(prompt, line);
}

static void replace(const char *prompt, Line *line, const char *text)
{
    line->length = line->cursor = strlen(text);
    memcpy(line->text, text, line->length + 1);
    redraw(prompt, line);
}

static void recall(const char *prompt, Line *line, int step)
{
    unsigned kept = history_count < HISTORY ? history_count : HISTORY;
    if (step > 0 ? line->back == kept : line->back == 0)
        return;
    line->back += (unsigned)step;
    replace(prompt, line, line->back ? history[(history_count - line->back) % HISTORY] : "");
}

static void complete(const char *prompt, Line *line)
{
    const char *match = NULL;
    for (size_t i = 0; i < shell_command_count; i++) {
        const char *name = shell_commands[i].name;
        if (strlen(name) < line->length || memcmp(name, line->text, line->length))
            continue;
        if (match)
            return; /* more than one */
        match = name;
    }
    if (!match || !line->length)
        return;
    replace(prompt, line, match);
    insert(prompt, line, ' ');
}

static void remember(const Line *line)
{
    if (!line->length || (history_count && !strcmp(history[(history_count - 1) % HISTORY], line->text)))
        return;
    memcpy(history[history_count++ % HISTORY], line->text, line->length + 1);
}

size_t line_read(const char *prompt, char *out, size_t size)
{
    Line line = {.length = 0};
    print("%s", prompt);
    for (;;) {
        int key = read_key();
        switch (key) {
        case '\r':
        case '\n':
            print("\n");
            remember(&line);
            line.length = line.length < size - 1 ? line.length : size - 1;
            memcpy(out, line.text, line.length);
            out[line.length] = 0;
            return line.length;
        case 0x03: /* Ctrl-C */
            print("^C\n%s", prompt);
            line = (Line){.length = 0};
            break;
        case 0x15:
            replace(prompt, &line, "");
            break;
        case 0x08:
        case 0x7f:
            if (line.cursor)
                erase(prompt, &line, line.cursor - 1);
            break;
        case KEY_DELETE:
        case 0x04:
            erase(prompt, &line, line.cursor);
            break;
        case '\t':
            complete(prompt, &line);
            break;
        case KEY_UP:
            recall(prompt, &line, 1);
            break;
        case KEY_DOWN:
            recall(prompt, &line, -1);
            break;
        case KEY_LEFT:
        case KEY_RIGHT:
            if (key == KEY_RIGHT && line.cursor < line.length)
                line.cursor++;
            else if (key == KEY_LEFT && line.cursor)
                line.cursor--;
            redraw(prompt, &line);
            break;
        case KEY_HOME:
        case 0x01:
            line.cursor = 0;
            redraw(prompt, &line);
            break;
        case KEY_END:
        case 0x05:
            line.cursor = line.length;
            redraw(prompt, &line);
            break;
        default:
            if (key >= ' ' && key < 0x7f)
                insert(prompt, &line, (char)key);
        }
    }
}
